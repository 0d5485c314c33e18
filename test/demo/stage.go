package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const column = 44 // width of Alice's side

// stage is the terminal: a clock, what Alice's device does, and what Bob sees in the room.
type stage struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
	start  time.Time // of the act
}

func newStage(out io.Writer, colour bool) *stage { return &stage{out: out, colour: colour} }

// act begins a new act with an explanation, and sets the clock to zero.
func (s *stage) act(title, explanation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = time.Now()
	fmt.Fprintf(s.out, "\n%s\n%s\n\n", s.paint("1", title), explanation)
	fmt.Fprintln(s.out, s.paint("2", fmt.Sprintf("%9s   %-*s%s", "", column, "Alice's device", "What Bob sees")))
}

// alice and bob each print a line on their side.
func (s *stage) alice(text string) { s.line(text, "", "0") }

func (s *stage) bob(text string) { s.line("", text, "1;32") }

// note prints a line that comes from neither.
func (s *stage) note(text string) { s.line(text, "", "33") }

func (s *stage) line(left, right, style string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clock := fmt.Sprintf("%6.1f s", time.Since(s.start).Seconds())
	if right != "" { // colours come after the padding, which would count them
		left = fmt.Sprintf("%-*s", column, left)
	}
	fmt.Fprintf(s.out, " %s   %s%s\n", s.paint("2", clock), s.paint(style, left), s.paint(style, right))
}

func (s *stage) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

func (s *stage) paint(style, text string) string {
	if !s.colour || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}
