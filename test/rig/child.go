package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/setup"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// variable is the environment variable that turns the test binary into a server.
const variable = "RIG_SERVER"

// launch is passed to the child at its start.
type launch struct {
	Config, HTTP, HTTPS, Cert, Key string
	Descriptors                    uint64 // maximum of open files and connections; 0: as for the test
	Open                           bool   // anybody may register

	Step string // crash at this step
	N    int    // when it is passed for the Nth time

	PauseAt string // pause at this step
	Pause   time.Duration
}

func (l launch) env() string {
	data, err := json.Marshal(l)
	if err != nil {
		panic(err) // cannot fail: strings and numbers
	}
	return variable + "=" + string(data)
}

// Main is TestMain for packages that use the kit. In the child it runs the server and does not return.
func Main(m *testing.M) {
	order, child := os.LookupEnv(variable)
	if !child {
		os.Exit(m.Run())
	}
	if err := serve(order); err != nil {
		fmt.Fprintln(os.Stderr, "the server ended:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is the child: the same assembly as cmd/dendrite, and a way to crash it.
func serve(order string) error {
	var l launch
	if err := json.Unmarshal([]byte(order), &l); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	bomb := &bomb{armed: map[string]int{l.Step: l.N}, pauseAt: l.PauseAt, pause: l.Pause}
	server, err := start(ctx, l, bomb)
	if err != nil {
		return err
	}
	reply := os.NewFile(3, "replies")
	fmt.Fprintln(reply, "up")
	go bomb.takeOrders(reply)
	select {
	case <-ctx.Done():
	case <-server.Done(): // the server cannot go on; Stop says why
	}
	grace, cancel := context.WithTimeout(context.Background(), setup.StopTimeout)
	defer cancel()
	if err := server.Stop(grace); err != nil {
		fmt.Fprintln(os.Stderr, "Not everything was finished:", err)
	}
	return server.Err()
}

func start(ctx context.Context, l launch, b *bomb) (*setup.Server, error) {
	if n := l.Descriptors; n > 0 {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			return nil, err
		}
	}
	dendrite, err := config.Load(l.Config)
	if err != nil {
		return nil, err
	}
	if l.Open {
		dendrite.ClientAPI.RegistrationDisabled, dendrite.ClientAPI.OpenRegistrationWithoutVerificationEnabled = false, true
	}
	futures, networks, err := fconfig.Load(l.Config)
	if err != nil {
		return nil, err
	}
	return setup.Start(ctx, setup.Options{
		Dendrite: dendrite, Futures: futures, Networks: networks,
		HTTP: address("http", l.HTTP), HTTPS: address("https", l.HTTPS), CertFile: l.Cert, KeyFile: l.Key,
		Metrics: dendrite.Global.Metrics.Enabled, Step: b.pass,
	})
}

func address(scheme, hostPort string) config.ServerAddress {
	return config.ServerAddress{Scheme: scheme, Address: hostPort}
}

// bomb kills the process from within, at an exact point of a future's life.
type bomb struct {
	mu    sync.Mutex
	armed map[string]int // number of passages until the crash

	pauseAt string
	pause   time.Duration
}

// pass is called at each step of the start and of a future's life.
func (b *bomb) pass(step string) {
	if step == b.pauseAt {
		time.Sleep(b.pause)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := b.armed[step]; n > 1 {
		b.armed[step] = n - 1
	} else if n == 1 {
		die()
	}
}

// takeOrders arms the bomb as the parent orders. When the parent is gone, the server ends.
func (b *bomb) takeOrders(reply *os.File) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var step string
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &step, &n); err != nil {
			continue
		}
		b.mu.Lock()
		b.armed[step] = n
		b.mu.Unlock()
		fmt.Fprintln(reply, "armed")
	}
	die()
}

// die ends the process as kill -9 does: no deferred call, no flush.
func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // it does not come back
	select {}
}
