// Package resolver runs Synapse's state resolution in a process of its own, so that its results can be compared with
// ours.
package resolver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

// Python is the environment variable that names the Python interpreter of an environment in which Synapse is installed.
const Python = "FUTURES_SYNAPSE_PYTHON"

// Synapse is a running process.
type Synapse struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Start starts Synapse's resolver with the interpreter at python.
func Start(python string) (*Synapse, error) { return start(python, "resolve.py") }

// StartJudge starts Synapse's authorisation rules with the interpreter at python.
func StartJudge(python string) (*Synapse, error) { return start(python, "judge.py") }

func start(python, script string) (*Synapse, error) {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command(python, filepath.Join(filepath.Dir(file), script))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Synapse{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<20)}, nil
}

// Close ends the process.
func (s *Synapse) Close() error {
	return errors.Join(s.in.Close(), s.cmd.Wait())
}

// Answer is Synapse's result for one room.
type Answer struct {
	State map[stateres.Key]string
	Paths int // in how many ways it was resolved, with the same result
}

type namedEvent struct {
	EventID        string          `json:"event_id"`
	RoomID         string          `json:"room_id"`
	Type           string          `json:"type"`
	StateKey       string          `json:"state_key"`
	Sender         string          `json:"sender"`
	Content        json.RawMessage `json:"content"`
	AuthEvents     []string        `json:"auth_events"`
	PrevEvents     []string        `json:"prev_events"`
	OriginServerTS int64           `json:"origin_server_ts"`
}

type question struct {
	Version   string            `json:"version"`
	Algorithm string            `json:"algorithm"`
	Create    string            `json:"create"`
	PDUs      []json.RawMessage `json:"pdus,omitempty"`
	IDs       []string          `json:"ids,omitempty"`
	Events    []namedEvent      `json:"events,omitempty"`
	Rejected  []string          `json:"rejected"`
	Sets      [][][3]string     `json:"sets"`
	Once      bool              `json:"once"`
}

func ask(r resolution.Room, alg stateres.Algorithm) question {
	q := question{Version: r.Version, Algorithm: "2", Create: r.Create.ID}
	if alg == stateres.V21 {
		q.Algorithm = "2.1"
	}
	for id, e := range r.Events {
		if e.Rejected {
			q.Rejected = append(q.Rejected, id)
		}
	}
	for _, set := range r.Sets {
		list := [][3]string{}
		for k, id := range set {
			list = append(list, [3]string{k.Type, k.StateKey, id})
		}
		q.Sets = append(q.Sets, list)
	}
	return q
}

// Send sends a vector's room, whose event IDs are no hashes. Read the answers with Receive, in order.
func (s *Synapse) Send(r resolution.Room, alg stateres.Algorithm) error {
	q := ask(r, alg)
	for _, e := range r.Events {
		q.Events = append(q.Events, namedEvent{
			e.ID, e.RoomID, e.Type, e.StateKey, e.Sender, e.Content, e.AuthEvents, e.PrevEvents, e.OriginServerTS,
		})
	}
	return s.write(q)
}

// SendHistory sends a generated room. Synapse computes the event IDs itself. With once it resolves in one way only,
// which takes half the time.
func (s *Synapse) SendHistory(h *resolution.History, alg stateres.Algorithm, once bool) error {
	q := ask(h.Room, alg)
	q.Once = once
	for n, pdu := range h.PDUs {
		q.PDUs = append(q.PDUs, pdu)
		q.IDs = append(q.IDs, h.IDs[n])
	}
	return s.write(q)
}

// SendEvent asks for a verdict on an event of room version 12, by the state and with its listed auth events, all as
// PDUs. Read the verdicts with ReceiveVerdict, in order.
func (s *Synapse) SendEvent(pdu []byte, state, listed []json.RawMessage) error {
	return s.write(map[string]any{"pdu": json.RawMessage(pdu), "state": state, "listed": listed})
}

// ReceiveVerdict returns why Synapse does not accept the next event, or "".
func (s *Synapse) ReceiveVerdict() (refusal string, err error) {
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return "", fmt.Errorf("Synapse's rules have ended: %w", err)
	}
	var verdict struct{ Error string }
	err = json.Unmarshal(line, &verdict)
	return verdict.Error, err
}

func (s *Synapse) write(q any) error {
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	_, err = s.in.Write(append(slices.Clip(line), '\n'))
	return err
}

// Receive reads the next answer.
func (s *Synapse) Receive() (Answer, error) {
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return Answer{}, fmt.Errorf("Synapse's resolver has ended: %w", err)
	}
	var answer struct {
		State [][3]string
		Paths int
		Error string
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return Answer{}, err
	}
	if answer.Error != "" {
		return Answer{}, errors.New(answer.Error)
	}
	state := map[stateres.Key]string{}
	for _, entry := range answer.State {
		state[stateres.Key{Type: entry[0], StateKey: entry[1]}] = entry[2]
	}
	return Answer{state, answer.Paths}, nil
}
