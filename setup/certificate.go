package setup

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
)

// certificate is the one for HTTPS. It can be read again while connections use it: an ACME client renews it every few weeks.
type certificate struct {
	certFile, keyFile string
	now               atomic.Pointer[tls.Certificate]
}

// newCertificate returns nil where there is to be none. Half a pair is a mistake: there would be no HTTPS, and no word.
func newCertificate(certFile, keyFile string) (*certificate, error) {
	switch {
	case certFile == "" && keyFile == "":
		return nil, nil
	case keyFile == "":
		return nil, errors.New("-tls-cert needs -tls-key, the certificate's private key")
	case certFile == "":
		return nil, errors.New("-tls-key needs -tls-cert, the key's certificate")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.load()
}

// load reads the files. If they do not fit each other, the certificate stays as it was.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate for HTTPS: %w", err)
	}
	c.now.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	// With the protocols, because Serve on the plain listener decides for all whether there is HTTP/2.
	return &tls.Config{
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil },
	}
}

// reloadCertificate reads the certificate again, if there is one. New connections get it.
func (f *front) reloadCertificate() error {
	if f.certificate == nil {
		return nil
	}
	return f.certificate.load()
}
