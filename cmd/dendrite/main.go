// Command dendrite is a Matrix homeserver with native futures. It replaces Dendrite's own binary: the same flags, the
// same dendrite.yaml, the same databases.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	dendrite "github.com/matrix-org/dendrite/setup"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/setup"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// Dendrite's setup package declares -config, -version and -really-enable-open-registration, and its internal/sqlutil
// declares -skip-db-sanity.
var (
	quickStart  = flag.String("quickstart", "", "Set up a homeserver in this folder, if there is none yet, and run it for this machine only")
	allowOrigin = flag.String("allow-origin", "", "With -quickstart: origins of web pages elsewhere that may use the server, such as https://app.element.io, separated by commas")
	liveKit     = flag.String("livekit", "", "With -quickstart: the SFU of calls, as http://KEY:SECRET@127.0.0.1:7880, or dev for livekit-server --dev")
	unixSocket  = flag.String("unix-socket", "", "Listen on this unix socket instead of network addresses (experimental)")
	unixMode    = flag.String("unix-socket-permission", "755", "The permission bits of the unix socket, in octal (experimental)")
	httpAddr    = flag.String("http-bind-address", ":8008", "Where to listen for HTTP; with -quickstart 127.0.0.1:8008")
	httpsAddr   = flag.String("https-bind-address", ":8448", "Where to listen for HTTPS, if there is a certificate")
	certFile    = flag.String("tls-cert", "", "The X.509 certificate for HTTPS, in PEM format")
	keyFile     = flag.String("tls-key", "", "The certificate's private key, in PEM format")
	healthcheck = flag.Bool("healthcheck", false, "Check the health of the server that runs with the same flags; the exit code is 0 if it is healthy, else 1")
)

func main() {
	flag.Parse()
	if flag.Lookup("version").Value.String() == "true" {
		fmt.Println(setup.Version())
		return
	}
	if *healthcheck {
		if err := setup.CheckHealth(context.Background(), *httpAddr, *unixSocket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	setup.KeepListening()
	setup.CollectRarely()
	stop, hangup := stopSignal(), hangupSignal()
	configPath := prepare()
	options := configure(configPath)
	logrus.Info(setup.Version())
	setup.CheckDescriptors(enoughDescriptors())
	if c := options.Dendrite.ClientAPI; !c.RegistrationDisabled && c.OpenRegistrationWithoutVerificationEnabled {
		logrus.Warn("Open registration is enabled")
	}

	server, err := setup.Start(context.Background(), options)
	check(err, "Cannot start")
	if *quickStart != "" && server.Addr() != nil {
		fmt.Print(setup.Welcome("http://"+server.Addr().String(), configPath, filepath.Dir(os.Args[0])))
	}
	reloader := setup.NewReloader(server, configPath, options.Dendrite, *quickStart != "")
	wait(server, stop, hangup, reloader.Reload)
	if err := server.Stop(context.Background()); err != nil {
		logrus.WithError(err).Warn("Not everything was finished; the next start does that")
	}
	check(server.Err(), "The server could not go on")
}

// enoughDescriptors returns what Dendrite recommends, or what a quick start needs for the clients of this machine.
func enoughDescriptors() uint64 {
	if *quickStart != "" {
		return 4096
	}
	return 65535
}

// stopSignal is closed at the first signal to stop. A second signal ends the process at once.
func stopSignal() <-chan struct{} {
	signals, stop := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		close(stop)
		<-signals
		os.Exit(1)
	}()
	return stop
}

// hangupSignal receives SIGHUP, which would otherwise end the process.
func hangupSignal() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals
}

// wait returns when the server must stop or has ended. Until then it reloads at each SIGHUP.
func wait(server *setup.Server, stop <-chan struct{}, hangup <-chan os.Signal, reload func()) {
	for {
		select {
		case <-stop:
			return
		case <-server.Done():
			return
		case <-hangup:
			reload()
		}
	}
}

// prepare sets up the quick start if it was requested, and returns the path of the configuration.
func prepare() string {
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *quickStart != "" {
		if given["config"] {
			logrus.Fatal("-quickstart has a configuration of its own; leave -config out")
		}
		path, err := setup.PrivateQuickStart(*quickStart)
		check(err, "Cannot set up "+*quickStart)
		check(flag.Set("config", path), "-config")
		if !given["http-bind-address"] {
			*httpAddr = "127.0.0.1:8008"
		}
	}
	if *quickStart == "" && *liveKit != "" {
		logrus.Fatal("-livekit is for -quickstart: name the SFU in future_server.matrix_rtc")
	}
	if *quickStart == "" && *allowOrigin != "" {
		logrus.Fatal("-allow-origin is for -quickstart: without it, the server answers all web pages, as Matrix requires")
	}
	return flag.Lookup("config").Value.String()
}

// local returns who may use a quick start: this machine, under its own names or the configured one.
func local(cfg *config.Dendrite) (*setup.Local, error) {
	hosts := []string{string(cfg.Global.ServerName)}
	if host, _, err := net.SplitHostPort(*httpAddr); err == nil {
		hosts = append(hosts, host)
	}
	return setup.NewLocal(hosts, *allowOrigin)
}

func configure(path string) (o setup.Options) {
	o = setup.Options{Dendrite: dendrite.ParseFlags(true), CertFile: *certFile, KeyFile: *keyFile, Metrics: true}
	setup.StartLogging(o.Dendrite, *quickStart != "")
	if *quickStart != "" && flag.Lookup("really-enable-open-registration").Value.String() == "true" {
		o.Dendrite.ClientAPI.RegistrationDisabled = false
	}
	var err error
	o.Futures, o.Networks, err = fconfig.Load(path)
	check(err, "Invalid config file")
	if *quickStart != "" {
		o.Local, err = local(o.Dendrite)
		check(err, "-allow-origin")
	}
	if *liveKit != "" {
		base := "http://" + *httpAddr
		if host, port, err := net.SplitHostPort(*httpAddr); err == nil && host == "" {
			base = "http://" + net.JoinHostPort("127.0.0.1", port)
		}
		check(o.Futures.MatrixRTC.AddDevelopment(base, *liveKit), "-livekit")
		o.Dendrite.Global.WellKnownClientName = base
	}
	if *unixSocket != "" {
		o.HTTP, err = config.UnixSocketAddress(*unixSocket, *unixMode)
		check(err, "-unix-socket-permission")
		return o
	}
	o.HTTP, err = config.HTTPAddress("http://" + *httpAddr)
	check(err, "-http-bind-address")
	o.HTTPS, err = config.HTTPAddress("https://" + *httpsAddr)
	check(err, "-https-bind-address")
	return o
}

func check(err error, what string) {
	if err != nil {
		logrus.Fatalf("%s: %s", what, err)
	}
}
