//! Protocols of words.

use bulkhead_abi::App;

use crate::inspect::head::{Head, begins, says};

/// The protocol of a client's first words.
#[inline(always)]
pub(super) fn request(head: Head) -> Option<App> {
    if is_http(head) {
        return Some(App::Http1);
    }
    if begins!(head, b"PRI * HTTP/2.0") {
        return Some(App::Http2);
    }
    if is_sip_request(head) {
        return Some(App::Sip);
    }
    if begins!(
        head,
        b"OPTIONS rtsp",
        b"DESCRIBE rtsp",
        b"SETUP rtsp",
        b"ANNOUNCE rtsp",
        b"PLAY rtsp",
        b"OPTIONS * RTSP"
    ) {
        return Some(App::Rtsp);
    }
    if is_resp(head) {
        return Some(App::Redis);
    }
    if begins!(head, b"CONNECT {", b"SUB ", b"PUB ") {
        return Some(App::Nats);
    }
    if begins!(head, b"STOMP\n", b"STOMP\r\n", b"CONNECT\n", b"CONNECT\r\n") {
        return Some(App::Stomp);
    }
    if begins!(head, b"@RSYNCD: ") {
        return Some(App::Rsync);
    }
    if begins!(head, b"RFB 003.", b"RFB 004.") {
        return Some(App::Vnc);
    }
    if begins!(head.behind(4), b"git-upload-", b"git-receive-", b"git-upload-a") && is_hex(head) {
        return Some(App::Git);
    }
    if says!(head, b"NICK ", b"CAP LS", b"CAP REQ ") {
        return Some(App::Irc);
    }
    if is_syslog(head) {
        return Some(App::Syslog);
    }
    if begins!(head, b"put ", b"put-", b"reserve\r\n", b"reserve-with-tim", b"list-tubes", b"watch ", b"use ")
        && is_line(head)
    {
        return Some(App::Beanstalk);
    }
    None
}

/// The protocol of a client's first words, where the answer may put it right.
#[inline(always)]
pub(super) fn likely_request(head: Head) -> Option<App> {
    if !head.is_text() {
        return None;
    }
    if begins!(
        head,
        b"PING\r\n",
        b"INFO\r\n",
        b"QUIT\r\n",
        b"COMMAND\r\n",
        b"SELECT ",
        b"CONFIG ",
        b"DBSIZE\r\n",
        b"HELLO 2\r\n",
        b"HELLO 3\r\n",
        b"INFO ",
        b"GET ",
        b"SET ",
        b"DEL ",
        b"INCR ",
        b"EXISTS ",
        b"LPUSH ",
        b"RPUSH ",
        b"HSET ",
        b"HGET ",
        b"KEYS ",
        b"ECHO "
    ) && (head.is_full() || is_line(head))
    {
        return Some(App::Redis);
    }
    if begins!(
        head,
        b"get ",
        b"gets ",
        b"gat ",
        b"set ",
        b"add ",
        b"replace ",
        b"append ",
        b"prepend ",
        b"cas ",
        b"incr ",
        b"decr ",
        b"delete ",
        b"touch ",
        b"stats\r\n",
        b"stats ",
        b"version\r\n",
        b"flush_all",
        b"verbosity ",
        b"quit\r\n",
        b"mg ",
        b"ms ",
        b"mn\r\n",
        b"md ",
        b"me "
    ) && (head.is_full() || is_line(head))
    {
        return Some(App::Memcached);
    }
    if begins!(
        head,
        b"ruok\n",
        b"stat\n",
        b"mntr\n",
        b"srvr\n",
        b"ruok\r\n",
        b"stat\r\n",
        b"mntr\r\n",
        b"srvr\r\n"
    ) {
        return Some(App::Zookeeper);
    }
    if begins!(head, b"USER ", b"PASS ") && (head.is_full() || is_line(head)) {
        return Some(App::Irc);
    }
    if is_some_text(head) { Some(App::Text) } else { None }
}

/// The protocol of a server's first words, whether it speaks first or answers.
#[inline(always)]
pub(super) fn answer(head: Head) -> Option<App> {
    if begins!(head, b"HTTP/1.", b"HTTP/0.9", b"ICY 200 OK") {
        return Some(App::Http1);
    }
    if begins!(head, b"SIP/2.0 ") {
        return Some(App::Sip);
    }
    if begins!(head, b"RTSP/1.0 ", b"RTSP/2.0 ") {
        return Some(App::Rtsp);
    }
    if begins!(head, b"RFB 003.", b"RFB 004.", b"RFB 005.") {
        return Some(App::Vnc);
    }
    if begins!(head, b"@RSYNCD: ") {
        return Some(App::Rsync);
    }
    if begins!(head, b"CONNECTED\n", b"CONNECTED\r\n") {
        return Some(App::Stomp);
    }
    if begins!(head, b"imok", b"Zookeeper versi", b"zk_version") {
        return Some(App::Zookeeper);
    }
    if begins!(
        head,
        b"VALUE ",
        b"STORED\r\n",
        b"NOT_STORED\r\n",
        b"STAT ",
        b"VERSION ",
        b"END\r\n",
        b"NOT_FOUND\r\n",
        b"EXISTS\r\n",
        b"DELETED\r\n",
        b"TOUCHED\r\n",
        b"CLIENT_ERROR ",
        b"SERVER_ERROR "
    ) {
        return Some(App::Memcached);
    }
    if begins!(head, b"INSERTED ", b"USING ", b"WATCHING ", b"RESERVED ", b"UNKNOWN_COMMAND\r") {
        return Some(App::Beanstalk);
    }
    if says!(head, b"NOTICE AUTH ", b"NOTICE * :", b"ERROR :CLOSING L", b":")
        && head.is_full()
        && head.is_text()
    {
        return Some(App::Irc);
    }
    None
}

/// Whether a server's bytes are those of Redis (RESP), where the client spoke first.
#[inline(always)]
pub(super) fn is_redis_answer(head: Head) -> bool {
    begins!(
        head,
        b"+OK\r\n",
        b"+PONG\r\n",
        b"+QUEUED\r\n",
        b"-ERR ",
        b"-NOAUTH ",
        b"-WRONGPASS ",
        b"-DENIED ",
        b"-MOVED ",
        b"-LOADING ",
        b"-READONLY ",
        b"-WRONGTYPE ",
        b"-NOPERM ",
        b"$-1\r\n",
        b"%7\r\n"
    ) || (begins!(head, b"$", b"*", b":", b"%") && is_count(head.behind(1)))
}

/// HTTP/1's methods, with the first byte of what may follow them (RFC 9112, 3.2).
#[inline(always)]
fn is_http(head: Head) -> bool {
    begins!(
        head,
        b"GET /",
        b"HEAD /",
        b"POST /",
        b"PUT /",
        b"DELETE /",
        b"PATCH /",
        b"OPTIONS /",
        b"OPTIONS * HTTP",
        b"TRACE /",
        b"GET http",
        b"HEAD http",
        b"POST http",
        b"PUT http",
        b"DELETE http",
        b"PATCH http",
        b"OPTIONS http"
    ) || begins!(
        head,
        b"PROPFIND /",
        b"PROPPATCH /",
        b"MKCOL /",
        b"COPY /",
        b"MOVE /",
        b"LOCK /",
        b"UNLOCK /",
        b"REPORT /",
        b"SEARCH /",
        b"PURGE /",
        b"LINK /",
        b"MERGE /",
        b"MKACTIVITY /",
        b"CHECKOUT /",
        b"BIND /"
    )
}

/// SIP's methods, each with the beginning of the address that must follow (RFC 3261, 7.1).
#[inline(always)]
pub(in crate::inspect) fn is_sip_request(head: Head) -> bool {
    begins!(
        head,
        b"INVITE sip",
        b"INVITE tel:",
        b"REGISTER sip",
        b"OPTIONS sip",
        b"MESSAGE sip",
        b"SUBSCRIBE sip",
        b"NOTIFY sip",
        b"ACK sip",
        b"BYE sip",
        b"CANCEL sip",
        b"PUBLISH sip",
        b"INFO sip",
        b"REFER sip",
        b"UPDATE sip",
        b"PRACK sip"
    )
}

/// Whether this is an array of bulk strings, as every Redis client sends.
#[inline(always)]
fn is_resp(head: Head) -> bool {
    // "*3\r\n$3\r\nSET\r\n"
    let digits = head.find(b'\r');
    begins!(head, b"*") && is_count(head.behind(1)) && begins!(head.behind(digits), b"\n$")
}

/// Whether a number stands here, at most five digits long, and the end of a line.
#[inline(always)]
fn is_count(head: Head) -> bool {
    let end = head.find(b'\r');
    (2..=6).contains(&end) && are_digits(head.first(end - 1)) && begins!(head.behind(end), b"\n")
}

/// Whether all of a few bytes are digits.
#[inline(always)]
fn are_digits(head: Head) -> bool {
    head.have() <= 5 && head.is_digits()
}

/// Whether the first four bytes are hexadecimal digits.
#[inline(always)]
fn is_hex(head: Head) -> bool {
    head.byte::<0>().is_ascii_hexdigit()
        && head.byte::<1>().is_ascii_hexdigit()
        && head.byte::<2>().is_ascii_hexdigit()
        && head.byte::<3>().is_ascii_hexdigit()
}

/// Whether this is a message of syslog: by its priority (RFC 5424, 6.2.1; RFC 3164, 4.1.1), behind its
/// length where that is counted (RFC 6587, 3.4.1).
#[inline(always)]
pub(in crate::inspect) fn is_syslog(head: Head) -> bool {
    let space = head.find(b' ');
    let counted = (2..=6).contains(&space) && are_digits(head.first(space - 1));
    let message = if counted { head.behind(space) } else { head };
    let end = message.find(b'>');
    if !begins!(message, b"<") || !(3..=5).contains(&end) {
        return false;
    }
    let rest = message.behind(end);
    are_digits(message.first(end - 1).behind(1))
        && rest.have() >= 4
        && rest.is_text()
        && (begins!(
            rest, b"1 ", b"Jan ", b"Feb ", b"Mar ", b"Apr ", b"May ", b"Jun ", b"Jul ", b"Aug ", b"Sep ",
            b"Oct ", b"Nov ", b"Dec "
        ) || rest.have() >= 8)
}

/// Whether the first line is there, and all of what is there is text.
#[inline(always)]
fn is_line(head: Head) -> bool {
    head.is_text() && (head.is_full() || head.find(b'\n') != 0)
}

/// Whether enough of it is text that nothing else looks so by chance: sixteen bytes, or a whole line.
#[inline(always)]
pub(super) fn is_some_text(head: Head) -> bool {
    let end = head.find(b'\n');
    head.is_text() && (head.is_full() || (end >= 6 && begins!(head.behind(end - 2), b"\r\n")))
}
