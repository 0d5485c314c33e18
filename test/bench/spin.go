package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// spinPatience is how long spin waits for an answer.
const spinPatience = 10 * time.Second

// spin sends n requests over some connections, one after another on each, from one thread that never sleeps. Waking a
// client on the same machine, which a server must do whenever it is the slower of the two, costs a tenth of a
// heartbeat; a remote client does not cost that.
func spin(ctx context.Context, address string, connections, n int, request func(buf []byte, i int) []byte) (took time.Duration, err error) {
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return 0, os.NewSyscallError("epoll_create1", err)
	}
	defer syscall.Close(poll)
	lines := make(map[int32]*spinLine, connections)
	defer func() {
		for fd := range lines {
			syscall.Close(int(fd))
		}
	}()
	start := time.Now()
	sent, waiting := 0, 0
	send := func(l *spinLine) error {
		if sent == n {
			return nil
		}
		sent, waiting = sent+1, waiting+1
		return l.send(request, sent-1)
	}
	for range connections {
		l, err := dialSpin(poll, address)
		if err != nil {
			return 0, err
		}
		lines[int32(l.fd)] = l
		if err := send(l); err != nil {
			return 0, err
		}
	}
	events := make([]syscall.EpollEvent, connections)
	for last := start; waiting > 0; {
		ready, err := syscall.EpollWait(poll, events, 0)
		switch {
		case ready > 0:
			last = time.Now()
		case err != nil && !errors.Is(err, syscall.EINTR):
			return 0, os.NewSyscallError("epoll_wait", err)
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case time.Since(last) > spinPatience:
			return 0, errors.New("a server does not answer")
		}
		for _, e := range events[:max(ready, 0)] {
			l := lines[e.Fd]
			whole, err := l.receive()
			if whole {
				waiting--
				err = send(l)
			}
			if err != nil {
				return 0, err
			}
		}
	}
	return time.Since(start), nil
}

// spinLine is a connection on which one request follows another.
type spinLine struct {
	fd      int
	request []byte
	answer  []byte // received so far
	buf     [4096]byte
	in      bufio.Reader
}

// dialSpin opens a connection that never blocks; poll reports answers.
func dialSpin(poll int, address string) (*spinLine, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}),
		syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
		syscall.SetNonblock(fd, true),
		syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}),
	)
	if err != nil {
		syscall.Close(fd)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return &spinLine{fd: fd}, nil
}

func (l *spinLine) send(request func(buf []byte, i int) []byte, i int) error {
	l.request = request(l.request[:0], i)
	l.answer = l.buf[:0]
	_, err := syscall.Write(l.fd, l.request) // complete, because the socket's buffer is empty
	return os.NewSyscallError("write", err)
}

// receive reads what has arrived, and reports whether that is a whole answer, which must be a 200.
func (l *spinLine) receive() (whole bool, err error) {
	n, err := syscall.Read(l.fd, l.buf[len(l.answer):])
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("read", err)
	case n == 0:
		return false, io.ErrUnexpectedEOF
	}
	l.answer = l.buf[:len(l.answer)+n]
	l.in.Reset(bytes.NewReader(l.answer))
	err = readOK(&l.in)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}
