// Command demo shows in half a minute what futures are for: a user who leaves a call without saying so, and a message
// that is deleted after a set time. It starts a homeserver of its own in a temporary folder.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gopkg.in/yaml.v3"
)

const (
	startTime = 20 * time.Second
	showTime  = time.Minute // twice the time needed
	stopTime  = 15 * time.Second
)

func main() {
	binary := flag.String("dendrite", filepath.Join("bin", "dendrite"), "the homeserver's program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary string, out *os.File) error {
	dir, err := os.MkdirTemp("", "futures-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(out, "Starting a homeserver in a temporary folder ...")
	start := time.Now()
	server, url, err := startServer(binary, dir)
	if err != nil {
		return err
	}
	defer stopServer(server)
	secret, err := readSecret(filepath.Join(dir, "dendrite.yaml"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "It answered after %.1f s.\n", time.Since(start).Seconds())

	ctx, cancel := context.WithTimeout(ctx, showTime)
	defer cancel()
	return show(ctx, newStage(out, isTerminal(out)), url, secret)
}

// startServer starts the homeserver on a free port, waits until it listens, and returns its URL.
func startServer(binary, dir string) (server *exec.Cmd, url string, err error) {
	server = exec.Command(binary, "-quickstart", dir, "-http-bind-address", "127.0.0.1:0")
	output, err := server.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := server.Start(); err != nil {
		return nil, "", fmt.Errorf("%w (\"make build\" makes it)", err)
	}
	tooLong := time.AfterFunc(startTime, func() { server.Process.Kill() })
	defer tooLong.Stop()
	var said strings.Builder
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if _, url, ok := strings.Cut(lines.Text(), "running at "); ok {
			go io.Copy(io.Discard, output)
			return server, url, nil
		}
		said.WriteString(lines.Text() + "\n")
	}
	return nil, "", fmt.Errorf("the homeserver did not start: %v\n%s", server.Wait(), said.String())
}

func stopServer(server *exec.Cmd) {
	server.Process.Signal(syscall.SIGTERM)
	tooLong := time.AfterFunc(stopTime, func() { server.Process.Kill() })
	defer tooLong.Stop()
	server.Wait()
}

// readSecret reads the secret for creating accounts from the quick start's configuration.
func readSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var config struct {
		ClientAPI struct {
			Secret string `yaml:"registration_shared_secret"`
		} `yaml:"client_api"`
	}
	err = yaml.Unmarshal(data, &config)
	return config.ClientAPI.Secret, err
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
}
