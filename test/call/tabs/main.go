// Command tabs lets two tabs of a browser call each other on this machine ("make call"). It starts a LiveKit, and a homeserver
// in a temporary folder, and serves a page with Element Call for each of two users.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTime = time.Minute
	stopTime  = 15 * time.Second
	password  = "a long password"
)

func main() {
	liveKit := flag.String("livekit", "livekit-server", "LiveKit's program")
	dendrite := flag.String("dendrite", filepath.Join("bin", "dendrite"), "the homeserver's program")
	pages := flag.String("pages", filepath.Join("test", "call", "js"), "the folder with host.html and its packages")
	listen := flag.String("listen", "127.0.0.1:8090", "where the pages are served")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *liveKit, *dendrite, *pages, *listen, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "call:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, liveKit, dendrite, pages, listen string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "futures-call-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(out, "Starting LiveKit and a homeserver in a temporary folder ...")
	sfu, err := startLiveKit(ctx, liveKit, dir)
	if err != nil {
		return err
	}
	homeserver, err := startDendrite(ctx, dendrite, dir, sfu)
	if err != nil {
		return err
	}
	users, err := twoUsers(ctx, homeserver)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: site(pages, users), ReadHeaderTimeout: stopTime}
	context.AfterFunc(ctx, func() { server.Close() })
	fmt.Fprintln(out, "Open each of these in a tab, and allow camera and microphone. Control-C ends it all.")
	for _, u := range users {
		fmt.Fprintf(out, "  http://%s/host.html#%s\n", l.Addr(), u.Name)
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// start starts a program that gets an interrupt when ctx ends, and is killed if it does not heed it.
func start(ctx context.Context, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		tooLong := time.AfterFunc(stopTime, func() { cmd.Process.Kill() })
		defer tooLong.Stop()
		cmd.Wait()
	})
	return nil
}

// startLiveKit returns its address with key and secret.
func startLiveKit(ctx context.Context, program, dir string) (string, error) {
	const key, secret = "callkey", "the secret of a call on this machine"
	ports := make([]int, 2)
	var held []net.Listener // until all are known
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		held = append(held, l)
	}
	path := filepath.Join(dir, "livekit.yaml")
	config := fmt.Sprintf(`port: %d
bind_addresses: [127.0.0.1]
rtc: {tcp_port: %d, udp_port: %d, node_ip: 127.0.0.1, use_external_ip: false, enable_loopback_candidate: true}
room: {auto_create: false}
keys: {%s: %s}
logging: {level: error}
`, ports[0], ports[1], ports[1], key, secret)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return "", err
	}
	for _, l := range held {
		l.Close()
	}
	if err := start(ctx, exec.Command(program, "--config", path)); err != nil {
		return "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	for end := time.Now().Add(startTime); ; time.Sleep(100 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return fmt.Sprintf("http://%s@%s", url.UserPassword(key, secret), address), nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return "", errors.New("LiveKit did not start")
		}
	}
}

// startDendrite returns the homeserver's URL when it answers.
func startDendrite(ctx context.Context, program, dir, sfu string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // its address has to be known to clients of calls
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "-quickstart", filepath.Join(dir, "data"), "-really-enable-open-registration",
		"-http-bind-address", address, "-livekit", sfu)
	output, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := start(ctx, cmd); err != nil {
		return "", fmt.Errorf("%w (\"make build\" makes it)", err)
	}
	tooLong := time.AfterFunc(startTime, func() { cmd.Process.Kill() })
	defer tooLong.Stop()
	var said strings.Builder
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if strings.Contains(lines.Text(), "running at ") {
			go io.Copy(io.Discard, output)
			return "http://" + address, nil
		}
		said.WriteString(lines.Text() + "\n")
	}
	return "", fmt.Errorf("the homeserver did not start:\n%s", said.String())
}

// A user is what the page needs to know.
type user struct {
	Name   string `json:"-"`
	URL    string `json:"url"`
	ID     string `json:"id"`
	Device string `json:"device"`
	Token  string `json:"token"`
	Room   string `json:"room"`
}

// twoUsers registers two users who are in a room.
func twoUsers(ctx context.Context, homeserver string) (users []*user, err error) {
	const api = "/_matrix/client/v3/"
	for _, name := range []string{"alice", "bob"} {
		u := &user{Name: name, URL: homeserver}
		var registered struct {
			UserID   string `json:"user_id"`
			DeviceID string `json:"device_id"`
			Token    string `json:"access_token"`
		}
		err := u.post(ctx, api+"register", map[string]any{
			"username": name, "password": password, "auth": map[string]any{"type": "m.login.dummy"},
		}, &registered)
		if err != nil {
			return nil, err
		}
		u.ID, u.Device, u.Token = registered.UserID, registered.DeviceID, registered.Token
		users = append(users, u)
	}
	var room struct {
		ID string `json:"room_id"`
	}
	if err := users[0].post(ctx, api+"createRoom", map[string]any{"preset": "public_chat", "name": "A call"}, &room); err != nil {
		return nil, err
	}
	users[0].Room, users[1].Room = room.ID, room.ID
	return users, users[1].post(ctx, api+"join/"+url.PathEscape(room.ID), map[string]any{}, nil)
}

func (u *user) post(ctx context.Context, path string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.URL+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	if u.Token != "" {
		req.Header.Set("Authorization", "Bearer "+u.Token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("%s: %s %s", path, resp.Status, said)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// site serves the pages and, to them alone, who their users are.
func site(pages string, users []*user) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(pages)))
	for _, u := range users {
		mux.HandleFunc("GET /users/"+u.Name, func(w http.ResponseWriter, req *http.Request) {
			if site := req.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
				http.Error(w, "for the pages of this address alone", http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(u)
		})
	}
	return mux
}
