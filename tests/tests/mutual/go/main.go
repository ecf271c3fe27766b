// HBONE by Go's own net/http and crypto/tls: `client LISTEN HOST FOLDER AUTHORITY`, or `server LISTEN FOLDER`.
//
// The client takes what connects to LISTEN through a CONNECT to HOST's port 15008; the server takes CONNECTs at
// LISTEN to wherever they want to go. FOLDER has tls.crt, tls.key and ca.crt. `ready` is said on standard output.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func config(folder string) *tls.Config {
	own, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
	check(err)
	pem, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	// Names of peers are URIs, which Go does not compare: the chain is checked by hand.
	verify := func(state tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, one := range state.PeerCertificates[1:] {
			between.AddCert(one)
		}
		usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: usages})
		log.Print("peer ", state.PeerCertificates[0].URIs, " by ", state.CurveID)
		return err
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{own},
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true,
		VerifyConnection:   verify,
	}
}

// Bytes at once, and at once on their way.
func copyFlushing(to io.Writer, from io.Reader, flush func()) error {
	buffer := make([]byte, 1<<16)
	for {
		size, err := from.Read(buffer)
		if size > 0 {
			if _, err := to.Write(buffer[:size]); err != nil {
				return err
			}
			flush()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func client(listen, host, folder, authority string) {
	dial := func(ctx context.Context, network, _ string, config *tls.Config) (net.Conn, error) {
		dialer := tls.Dialer{Config: config}
		return dialer.DialContext(ctx, network, net.JoinHostPort(host, "15008"))
	}
	own := config(folder)
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dial(ctx, network, address, own)
		},
		ForceAttemptHTTP2: true,
	}
	listener, err := net.Listen("tcp", listen)
	check(err)
	fmt.Println("ready")
	for {
		program, err := listener.Accept()
		check(err)
		go func() {
			defer program.Close()
			body, up := io.Pipe()
			target := &url.URL{Scheme: "https", Host: authority}
			request := &http.Request{Method: http.MethodConnect, URL: target, Host: authority, Body: body, Header: http.Header{}}
			answer, err := transport.RoundTrip(request)
			check(err)
			log.Print("status ", answer.StatusCode, " ", answer.Proto)
			if answer.StatusCode != http.StatusOK {
				return
			}
			go func() {
				up.CloseWithError(copyFlushing(up, program, func() {}))
			}()
			check(copyFlushing(program, answer.Body, func() {}))
			program.(*net.TCPConn).CloseWrite()
			// What is still to go up goes, until the program ends.
			io.Copy(io.Discard, body)
		}()
	}
}

func server(listen, folder string) {
	handler := func(writer http.ResponseWriter, request *http.Request) {
		log.Print(request.Method, " ", request.Host, " ", request.Proto, " forwarded ", request.Header.Get("Forwarded"))
		if request.Method != http.MethodConnect {
			writer.WriteHeader(http.StatusBadRequest)
			return
		}
		program, err := net.Dial("tcp", request.Host)
		if err != nil {
			writer.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		defer program.Close()
		flush := writer.(http.Flusher).Flush
		writer.WriteHeader(http.StatusOK)
		flush()
		down := make(chan error, 1)
		go func() { down <- copyFlushing(writer, program, flush) }()
		copyFlushing(program, request.Body, func() {})
		program.(*net.TCPConn).CloseWrite()
		<-down
	}
	served := &http.Server{Addr: listen, Handler: http.HandlerFunc(handler), TLSConfig: config(folder)}
	listener, err := net.Listen("tcp", listen)
	check(err)
	fmt.Println("ready")
	check(served.ServeTLS(listener, "", ""))
}

func main() {
	switch {
	case len(os.Args) == 6 && os.Args[1] == "client":
		client(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	case len(os.Args) == 4 && os.Args[1] == "server":
		server(os.Args[2], os.Args[3])
	default:
		log.Fatal("usage: client LISTEN HOST FOLDER AUTHORITY, or server LISTEN FOLDER")
	}
}
