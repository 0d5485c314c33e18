package setup

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// healthcheckLimit is less than what container engines wait for an answer (30 s), so that it is our error that they show.
const healthcheckLimit = 10 * time.Second

// CheckHealth asks a running server of this machine for its health, and returns why it is not healthy. The address is
// what the server was told to listen on for HTTP; a unix socket, if there is one, takes its place.
func CheckHealth(ctx context.Context, address, unixSocket string) error {
	ctx, cancel := context.WithTimeout(ctx, healthcheckLimit)
	defer cancel()
	network, target := "tcp", reachable(address)
	if unixSocket != "" {
		network, target = "unix", unixSocket
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, target) // no proxy: the server is on this machine
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/_dendrite/monitor/health", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, answer)
	}
	return err
}

// reachable returns an address at which a server can be asked that listens on all addresses.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address // the dialer says what is wrong with it
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() && ip.To4() != nil {
		host = "127.0.0.1"
	} else if ip.IsUnspecified() {
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
