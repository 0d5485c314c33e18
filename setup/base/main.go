// Command base makes the patched base that this server is built on. It copies the versions of Dendrite and
// gomatrixserverlib that go.mod requires, applies the patches of this folder, and writes a go.work that uses the copies.
// "make" runs it before everything else; docs/base.md explains it.
//
//	go run ./setup/base                 make the patched base, if anything has changed since the last time
//	go run ./setup/base -record FILE    write the edits in .base into the patch FILE
//
// FILE is relative to this folder, for example dendrite/10-redactions.patch.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

func main() {
	record := flag.String("record", "", "write the edits in .base into this patch `file`")
	flag.Parse()
	if err := run(*record); err != nil {
		fmt.Fprintln(os.Stderr, "setup/base:", err)
		os.Exit(1)
	}
}

func run(record string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	lock := flock.New(filepath.Join(root, ".base.lock"))
	if err := lock.Lock(); err != nil {
		return err
	}
	defer lock.Unlock() //nolint:errcheck // the process ends here
	b, err := readBase(root)
	if err != nil {
		return err
	}
	if record != "" {
		return b.record(record)
	}
	return b.update()
}

// moduleRoot returns the folder of this project's go.mod.
func moduleRoot() (string, error) {
	out, err := goCommand("", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// goCommand runs the go command and returns its output. It ignores go.work, which may name copies that do not exist.
func goCommand(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
