package setup

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
)

// certificate is the certificate for HTTPS. It can be reloaded while connections use it, because an ACME client renews
// it every few weeks.
type certificate struct {
	certFile, keyFile string
	now               atomic.Pointer[tls.Certificate]
}

// newCertificate returns nil if there is no certificate. Only one of the two files is an error: otherwise there would
// silently be no HTTPS.
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

// load reads the files. If they do not match, the old certificate stays.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate for HTTPS: %w", err)
	}
	c.now.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	// It names the protocols because Serve on the plain listener decides for all listeners whether there is HTTP/2.
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
