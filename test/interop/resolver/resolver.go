// Package resolver lets Synapse resolve the state of rooms, in a process of its own, so that its answers can be
// compared with ours.
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
func Start(python string) (*Synapse, error) {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command(python, filepath.Join(filepath.Dir(file), "resolve.py"))
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

// Answer is what Synapse says of one room.
type Answer struct {
	State map[stateres.Key]string
	Paths int // in how many ways it has been resolved, with the same result
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

// Send asks for a vector's room, whose event IDs are no hashes. The answer is to be read with Receive, in order.
func (s *Synapse) Send(r resolution.Room, alg stateres.Algorithm) error {
	q := ask(r, alg)
	for _, e := range r.Events {
		q.Events = append(q.Events, namedEvent{
			e.ID, e.RoomID, e.Type, e.StateKey, e.Sender, e.Content, e.AuthEvents, e.PrevEvents, e.OriginServerTS,
		})
	}
	return s.write(q)
}

// SendHistory asks for a generated room. Synapse computes the event IDs itself. With once, it resolves in one way only,
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

func (s *Synapse) write(q question) error {
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
