/* HBONE by nghttp2 and OpenSSL: `client LISTEN HOST FOLDER AUTHORITY`, or `server LISTEN FOLDER`.
 *
 * The client takes what connects to LISTEN through a CONNECT to HOST's port 15008; the server takes CONNECTs at
 * LISTEN to wherever they want to go. FOLDER has tls.crt, tls.key and ca.crt; addresses are IPv4. `ready` is said
 * on standard output.
 *
 * Each tunnel has a thread that waits for its TLS connection, for the programs behind its streams and, at the
 * client, for new ones. Bytes are given back to the window of the stream only when the program has taken them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STREAMS = 128, WINDOW = 1 << 20 };

/* A program on one side, a stream of HTTP/2 on the other. */
struct stream {
	int fd; /* -1: this place is free */
	int32_t id;
	bool open;     /* it still is one of the session's */
	bool deferred; /* the session waits for the program's next bytes */
	bool asked;    /* the answer to the client's CONNECT is not there yet */
	bool end;      /* the peer has said all */
	bool shut;     /* and the program was told */
	char authority[64];
	uint8_t *taken; /* from the peer, and not yet by the program */
	size_t length, room;
};

struct tunnel {
	SSL *ssl;
	nghttp2_session *session;
	int listener; /* the client's, or -1 */
	const char *authority;
	const uint8_t *sending; /* what the session wanted sent, and TLS has not taken */
	size_t left;
	bool wants_write;
	struct stream streams[STREAMS];
};

static void fail(const char *what) {
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void check(int code, const char *what) {
	if (code < 0) {
		fprintf(stderr, "%s: %s\n", what, nghttp2_strerror(code));
		exit(1);
	}
}

static struct sockaddr_in address(const char *text) {
	char host[64];
	struct sockaddr_in at = {.sin_family = AF_INET};
	const char *colon = strrchr(text, ':');
	if (!colon || colon - text >= (long)sizeof host)
		fail(text);
	memcpy(host, text, colon - text);
	host[colon - text] = 0;
	at.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, host, &at.sin_addr) != 1)
		fail(text);
	return at;
}

static int dial(const char *text) {
	struct sockaddr_in to = address(text);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&to, sizeof to)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int listen_at(const char *text) {
	struct sockaddr_in at = address(text);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 128))
		fail(text);
	return fd;
}

static void unblock(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static struct stream *add(struct tunnel *tunnel, int fd) {
	for (struct stream *one = tunnel->streams; one < tunnel->streams + STREAMS; one++)
		if (one->fd < 0) {
			*one = (struct stream){.fd = fd, .open = true};
			if (fd >= 0)
				unblock(fd);
			return one;
		}
	fprintf(stderr, "too many streams\n");
	exit(1);
}

static void forget(struct stream *one) {
	if (one->fd >= 0)
		close(one->fd);
	free(one->taken);
	*one = (struct stream){.fd = -1};
}

/* What the program says, when the session wants it. */
static ssize_t read_program(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                            nghttp2_data_source *source, void *data) {
	struct stream *one = source->ptr;
	ssize_t size = read(one->fd, buffer, length);
	(void)session, (void)id, (void)data;
	if (size < 0 && errno == EAGAIN) {
		one->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	if (size < 0)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (size == 0)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return size;
}

/* Gives the program what it can take. */
static void write_program(struct tunnel *tunnel, struct stream *one) {
	while (one->length) {
		ssize_t size = write(one->fd, one->taken, one->length);
		if (size < 0 && errno == EAGAIN)
			return;
		if (size < 0) {
			if (one->open)
				nghttp2_submit_rst_stream(tunnel->session, NGHTTP2_FLAG_NONE, one->id, NGHTTP2_CANCEL);
			one->length = 0;
			return;
		}
		one->length -= size;
		memmove(one->taken, one->taken + size, one->length);
		check(nghttp2_session_consume(tunnel->session, one->id, size), "consume");
	}
	if (one->end && !one->shut) {
		one->shut = true;
		shutdown(one->fd, SHUT_WR);
	}
	if (!one->open)
		forget(one);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t length, uint8_t flags, void *data) {
	struct tunnel *tunnel = data;
	struct stream *one = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	bool is_authority = name_length == 10 && !memcmp(name, ":authority", 10);
	(void)flags;
	if (tunnel->listener < 0 && !one) {
		/* A place that is not free, and has no program yet. */
		one = add(tunnel, -1);
		one->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		one->id = frame->hd.stream_id;
		nghttp2_session_set_stream_user_data(session, one->id, one);
	}
	fprintf(stderr, "%.*s %.*s\n", (int)name_length, name, (int)length, value);
	if (one && is_authority && length < sizeof one->authority)
		memcpy(one->authority, value, length);
	if (one && one->asked && name_length == 7 && !memcmp(name, ":status", 7)) {
		nghttp2_data_provider from = {.source.ptr = one, .read_callback = read_program};
		one->asked = false;
		if (length == 3 && !memcmp(value, "200", 3))
			check(nghttp2_submit_data(session, NGHTTP2_FLAG_END_STREAM, one->id, &from), "data");
		else
			check(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, one->id, NGHTTP2_CANCEL), "reset");
	}
	return 0;
}

/* The server's answer to a CONNECT. */
static void accept_stream(struct tunnel *tunnel, struct stream *one) {
	nghttp2_nv good = {(uint8_t *)":status", (uint8_t *)"200", 7, 3, NGHTTP2_NV_FLAG_NONE};
	nghttp2_nv bad = {(uint8_t *)":status", (uint8_t *)"503", 7, 3, NGHTTP2_NV_FLAG_NONE};
	nghttp2_data_provider from = {.source.ptr = one, .read_callback = read_program};
	int fd = dial(one->authority);
	if (fd < 0) {
		check(nghttp2_submit_response(tunnel->session, one->id, &bad, 1, NULL), "answer");
		return;
	}
	close(one->fd);
	one->fd = fd;
	unblock(fd);
	check(nghttp2_submit_response(tunnel->session, one->id, &good, 1, &from), "answer");
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
	struct tunnel *tunnel = data;
	struct stream *one = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
	if (!one)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		accept_stream(tunnel, one);
	bool carries = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
	if (carries && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
		one->end = true;
		write_program(tunnel, one);
	}
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t length,
                   void *data) {
	struct stream *one = nghttp2_session_get_stream_user_data(session, id);
	(void)flags;
	if (!one)
		return 0;
	if (one->length + length > one->room) {
		one->room = (one->length + length) * 2;
		one->taken = realloc(one->taken, one->room);
	}
	memcpy(one->taken + one->length, bytes, length);
	one->length += length;
	write_program(data, one);
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *data) {
	struct stream *one = nghttp2_session_get_stream_user_data(session, id);
	if (!one)
		return 0;
	one->open = false;
	if (code != NGHTTP2_NO_ERROR) {
		struct linger reset = {.l_onoff = 1};
		fprintf(stderr, "stream %d ends with %s\n", id, nghttp2_http2_strerror(code));
		setsockopt(one->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		forget(one);
	} else
		write_program(data, one);
	return 0;
}

/* A CONNECT that was not even sent: the peer takes no new ones. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int code, void *data) {
	struct tunnel *tunnel = data;
	(void)session;
	fprintf(stderr, "not sent: %s\n", nghttp2_strerror(code));
	for (struct stream *one = tunnel->streams; one < tunnel->streams + STREAMS; one++)
		if (one->fd >= 0 && one->id == frame->hd.stream_id)
			forget(one);
	return 0;
}

static void begin_session(struct tunnel *tunnel) {
	nghttp2_session_callbacks *calls;
	nghttp2_option *option;
	nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW},
	                                     {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS - 1}};
	nghttp2_session_callbacks_new(&calls);
	nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(calls, on_not_sent);
	nghttp2_option_new(&option);
	nghttp2_option_set_no_auto_window_update(option, 1);
	int code = tunnel->listener < 0 ? nghttp2_session_server_new2(&tunnel->session, calls, tunnel, option)
	                                : nghttp2_session_client_new2(&tunnel->session, calls, tunnel, option);
	check(code, "session");
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(calls);
	check(nghttp2_submit_settings(tunnel->session, NGHTTP2_FLAG_NONE, settings, 2), "settings");
}

/* The client's CONNECT for a program that came. */
static void ask(struct tunnel *tunnel) {
	int fd = accept4(tunnel->listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	struct stream *one = add(tunnel, fd);
	const char *authority = tunnel->authority;
	nghttp2_nv headers[] = {
	    {(uint8_t *)":method", (uint8_t *)"CONNECT", 7, 7, NGHTTP2_NV_FLAG_NONE},
	    {(uint8_t *)":authority", (uint8_t *)authority, 10, strlen(authority), NGHTTP2_NV_FLAG_NONE},
	};
	one->asked = true;
	one->id = nghttp2_submit_headers(tunnel->session, NGHTTP2_FLAG_NONE, -1, NULL, headers, 2, one);
	check(one->id, "headers");
}

/* Whether the tunnel goes on. */
static bool receive(struct tunnel *tunnel) {
	static _Thread_local uint8_t buffer[1 << 16];
	for (;;) {
		int size = SSL_read(tunnel->ssl, buffer, sizeof buffer);
		if (size <= 0)
			return SSL_get_error(tunnel->ssl, size) == SSL_ERROR_WANT_READ;
		ssize_t took = nghttp2_session_mem_recv(tunnel->session, buffer, size);
		if (took < 0) {
			fprintf(stderr, "recv: %s\n", nghttp2_strerror(took));
			return false;
		}
	}
}

static bool transmit(struct tunnel *tunnel) {
	tunnel->wants_write = false;
	for (;;) {
		if (!tunnel->left) {
			ssize_t size = nghttp2_session_mem_send(tunnel->session, &tunnel->sending);
			if (size <= 0)
				return size == 0;
			tunnel->left = size;
		}
		int size = SSL_write(tunnel->ssl, tunnel->sending, tunnel->left);
		if (size <= 0) {
			tunnel->wants_write = true;
			return SSL_get_error(tunnel->ssl, size) == SSL_ERROR_WANT_WRITE;
		}
		tunnel->sending += size;
		tunnel->left -= size;
	}
}

static void *run(void *data) {
	struct tunnel *tunnel = data;
	int tls = SSL_get_fd(tunnel->ssl);
	unblock(tls);
	for (struct stream *one = tunnel->streams; one < tunnel->streams + STREAMS; one++)
		one->fd = -1;
	begin_session(tunnel);
	while (receive(tunnel) && transmit(tunnel)) {
		struct pollfd fds[STREAMS + 2] = {{tls, tunnel->wants_write ? POLLIN | POLLOUT : POLLIN, 0},
		                                  {tunnel->listener, POLLIN, 0}};
		for (int i = 0; i < STREAMS; i++) {
			struct stream *one = &tunnel->streams[i];
			short events = (one->deferred ? POLLIN : 0) | (one->length ? POLLOUT : 0);
			fds[i + 2] = (struct pollfd){events ? one->fd : -1, events, 0};
		}
		if (poll(fds, STREAMS + 2, -1) < 0)
			fail("poll");
		if (fds[1].revents)
			ask(tunnel);
		for (int i = 0; i < STREAMS; i++) {
			struct stream *one = &tunnel->streams[i];
			if (one->fd < 0 || !fds[i + 2].revents)
				continue;
			if (one->deferred) {
				one->deferred = false;
				if (one->open)
					check(nghttp2_session_resume_data(tunnel->session, one->id), "resume");
			}
			write_program(tunnel, one);
		}
	}
	fprintf(stderr, "a tunnel has ended\n");
	for (struct stream *one = tunnel->streams; one < tunnel->streams + STREAMS; one++)
		forget(one);
	nghttp2_session_del(tunnel->session);
	SSL_free(tunnel->ssl);
	close(tls);
	free(tunnel);
	return NULL;
}

static int choose(SSL *ssl, const unsigned char **out, unsigned char *length, const unsigned char *in,
                  unsigned int size, void *data) {
	(void)ssl, (void)data;
	return nghttp2_select_next_protocol((unsigned char **)out, length, in, size) == 1 ? SSL_TLSEXT_ERR_OK
	                                                                                 : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *context(const char *folder) {
	SSL_CTX *tls = SSL_CTX_new(TLS_method());
	char path[3][4096];
	const char *names[] = {"tls.crt", "tls.key", "ca.crt"};
	for (int i = 0; i < 3; i++)
		snprintf(path[i], sizeof path[i], "%s/%s", folder, names[i]);
	SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(tls, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_alpn_protos(tls, (const unsigned char *)"\2h2", 3);
	SSL_CTX_set_alpn_select_cb(tls, choose, NULL);
	if (SSL_CTX_use_certificate_chain_file(tls, path[0]) != 1 ||
	    SSL_CTX_use_PrivateKey_file(tls, path[1], SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_load_verify_locations(tls, path[2], NULL) != 1)
		fail(folder);
	return tls;
}

static void begin(SSL_CTX *tls, int fd, int listener, const char *authority) {
	struct tunnel *tunnel = calloc(1, sizeof *tunnel);
	*tunnel = (struct tunnel){.ssl = SSL_new(tls), .listener = listener, .authority = authority};
	SSL_set_fd(tunnel->ssl, fd);
	int done = listener < 0 ? SSL_accept(tunnel->ssl) : SSL_connect(tunnel->ssl);
	if (done != 1) {
		ERR_print_errors_fp(stderr);
		SSL_free(tunnel->ssl);
		close(fd);
		free(tunnel);
		return;
	}
	fprintf(stderr, "%s by %s, %s\n", SSL_get_version(tunnel->ssl),
	        OBJ_nid2sn(SSL_get_negotiated_group(tunnel->ssl)), SSL_get_cipher(tunnel->ssl));
	pthread_t thread;
	pthread_create(&thread, NULL, run, tunnel);
	pthread_detach(thread);
}

static void ready(void) {
	puts("ready");
	fflush(stdout);
}

int main(int count, char **words) {
	signal(SIGPIPE, SIG_IGN);
	setlinebuf(stderr);
	if (count == 6 && !strcmp(words[1], "client")) {
		char peer[64];
		snprintf(peer, sizeof peer, "%s:15008", words[3]);
		int listener = listen_at(words[2]), fd = dial(peer);
		if (fd < 0)
			fail(peer);
		begin(context(words[4]), fd, listener, words[5]);
		ready();
		for (;;)
			pause();
	}
	if (count == 4 && !strcmp(words[1], "server")) {
		SSL_CTX *tls = context(words[3]);
		int listener = listen_at(words[2]);
		ready();
		for (;;) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			if (fd >= 0)
				begin(tls, fd, -1, NULL);
		}
	}
	fprintf(stderr, "usage: client LISTEN HOST FOLDER AUTHORITY | server LISTEN FOLDER\n");
	return 2;
}
