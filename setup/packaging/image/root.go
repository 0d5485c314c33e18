package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// authorities are the places at which systems keep the certificates of public authorities.
var authorities = [...]string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

func owner(user int) string { return fmt.Sprintf("%d:%d", user, user) }

// writeRoot writes the root file system as a tar archive. Folders for data belong to the user, and so do new volumes, since
// a container engine copies what lies where it mounts them.
func writeRoot(to io.Writer, programs string, user int) error {
	certificates, err := readFirst(authorities[:])
	if err != nil {
		return err
	}
	binaries, err := filepath.Glob(filepath.Join(programs, "*")) // sorted
	if err != nil || len(binaries) == 0 {
		return errors.Join(err, fmt.Errorf("there are no programs in %s", programs))
	}
	r := root{tar: tar.NewWriter(to)}
	for _, name := range []string{"etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/bin", "var"} {
		r.folder(name, 0o755, 0)
	}
	r.folder("tmp", 0o1777, 0)
	for _, name := range []string{"etc/dendrite", "var/dendrite", "var/dendrite/media", "var/dendrite/jetstream", "var/dendrite/searchindex"} {
		r.folder(name, 0o755, user)
	}
	passwd := "root:x:0:0:root:/:/sbin/nologin\n"
	group := "root:x:0:\n"
	if user != 0 {
		passwd += fmt.Sprintf("dendrite:x:%d:%d:dendrite:/var/dendrite:/sbin/nologin\n", user, user)
		group += fmt.Sprintf("dendrite:x:%d:\n", user)
	}
	r.file("etc/passwd", 0o644, []byte(passwd))
	r.file("etc/group", 0o644, []byte(group))
	r.file("etc/ssl/certs/ca-certificates.crt", 0o644, certificates)
	for _, path := range binaries {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r.file("usr/bin/"+filepath.Base(path), 0o755, text)
	}
	return errors.Join(r.err, r.tar.Close())
}

func readFirst(paths []string) ([]byte, error) {
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			return text, nil
		}
	}
	return nil, fmt.Errorf("this machine has no certificates of public authorities at %s (Debian: ca-certificates)", strings.Join(paths, ", "))
}

// A root is written entry by entry. The first error is kept.
type root struct {
	tar *tar.Writer
	err error
}

func (r *root) folder(name string, mode int64, user int) {
	r.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: user, Gid: user}, nil)
}

func (r *root) file(name string, mode int64, text []byte) {
	r.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}, text)
}

func (r *root) add(h *tar.Header, text []byte) {
	if r.err != nil {
		return
	}
	h.Format, h.ModTime = tar.FormatPAX, time.Unix(0, 0) // no file is younger than another, so that images are reproducible
	if r.err = r.tar.WriteHeader(h); r.err == nil {
		_, r.err = r.tar.Write(text)
	}
}
