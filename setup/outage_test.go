package setup

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/sirupsen/logrus"
)

// A consumer that would end the process at once makes the server stop cleanly.
func TestReaderThatGivesUp(t *testing.T) {
	s := start(t, options(t, t.TempDir()))
	go jetstream.NewLogAdapter().Fatalf("a reader gives up") // Dendrite's own code, which ends the process
	if a := ask(t, "GET", "http://"+s.Addr().String()+"/_matrix/client/versions", ""); a.status != http.StatusOK {
		t.Errorf("%v", a)
	}
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "a reader gives up") {
		t.Errorf("ended with %v", err)
	}
	begin := time.Now()
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// A failed start may end the process, and a panic in a request is handled by the HTTP server.
func TestOnlyDendritesGoroutinesAreHeld(t *testing.T) {
	start(t, options(t, t.TempDir()))
	defer func() {
		if recover() == nil {
			t.Error("there was no panic")
		}
	}()
	logrus.Panic("a request goes wrong")
}

// Without its NATS server the start fails with a clear error.
func TestStartWithoutNATS(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	o := options(t, t.TempDir())
	o.Dendrite.Global.JetStream.Addresses = []string{"nats://" + l.Addr().String()}
	if s, err := Start(t.Context(), o); err == nil {
		s.Stop(t.Context())
		t.Error("no error")
	} else if !strings.Contains(err.Error(), "Unable to connect to NATS") {
		t.Error(err)
	}
}
