package outage_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestNATS uses an external NATS server. Heartbeats do not depend on it.
func TestNATS(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	s := rig.New(t, rig.Config{Set: map[string]any{"global.jetstream.addresses": []string{"nats://" + n.addr}}})
	endure(t, s, n, *away)
}

// natsServer is a NATS server with JetStream, in a process of its own.
type natsServer struct {
	t       testing.TB
	program string
	dir     string
	addr    string
	cmd     *exec.Cmd
	log     *os.File
}

// startNATS builds the NATS server from the module that the homeserver embeds, and starts it.
func startNATS(t testing.TB) *natsServer {
	t.Helper()
	dir := t.TempDir()
	n := &natsServer{t: t, program: filepath.Join(dir, "nats-server"), dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", rig.ReservePort(t))}
	args := []string{"build", "-o", n.program}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race") // so its packages are already built for this test
	}
	build := exec.Command("go", append(args, "github.com/nats-io/nats-server/v2")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building nats-server: %v\n%s", err, out)
	}
	config := fmt.Sprintf("listen: %q\nmax_payload: 16MB\njetstream { store_dir: %q, sync_interval: always }\n", n.addr, dir)
	if err := os.WriteFile(n.config(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "nats.log"))
	if err != nil {
		t.Fatal(err)
	}
	n.log = log
	t.Cleanup(n.cleanup)
	n.start()
	return n
}

func (n *natsServer) config() string { return filepath.Join(n.dir, "nats.conf") }

func (n *natsServer) start() {
	n.t.Helper()
	n.cmd = exec.Command(n.program, "-c", n.config())
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp4", n.addr); err == nil {
			c.Close()
			return
		}
	}
	n.t.Fatal("nats-server does not answer")
}

func (n *natsServer) end(by syscall.Signal) {
	if n.cmd.ProcessState == nil {
		n.cmd.Process.Signal(by) //nolint:errcheck // it may be gone already
		n.cmd.Wait()             //nolint:errcheck // by a signal
	}
}

func (n *natsServer) restart() { n.end(syscall.SIGTERM); n.start() }

func (n *natsServer) crash() { n.end(syscall.SIGKILL); n.start() }

func (n *natsServer) stop() func() { n.end(syscall.SIGTERM); return n.start }

func (n *natsServer) cleanup() {
	n.end(syscall.SIGKILL)
	n.log.Close()
}
