package setup

import (
	"net"
	"os"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// serviceManager notifies systemd if it has started the process with Type=notify. Each message is one datagram to the
// socket that the environment names (sd_notify(3)).
type serviceManager struct {
	conn     net.Conn // nil if there is no service manager
	watchdog bool     // it expects regular signs of life
}

func newServiceManager() serviceManager {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return serviceManager{}
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" is the abstract namespace
	if err != nil {
		logrus.WithError(err).Warn("The service manager cannot be told of the server's state")
		return serviceManager{}
	}
	return serviceManager{conn, wantsWatchdog()}
}

// wantsWatchdog reports whether the service has a WatchdogSec and this process is the one that is watched.
func wantsWatchdog() bool {
	period, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if err != nil {
		return false
	}
	if least := 4 * checkEvery; time.Duration(period)*time.Microsecond < least {
		logrus.Warnf("WatchdogSec is too short; the server reports every %s, so let it be %s or more", checkEvery, least)
	}
	pid := os.Getenv("WATCHDOG_PID")
	return pid == "" || pid == strconv.Itoa(os.Getpid())
}

// notify sends a state to the service manager. Errors are ignored.
func (m serviceManager) notify(state string) {
	if m.conn == nil || state == "WATCHDOG=1" && !m.watchdog {
		return
	}
	_ = m.conn.SetWriteDeadline(time.Now().Add(checkEvery))
	_, _ = m.conn.Write([]byte(state))
}

func (m serviceManager) close() {
	if m.conn != nil {
		m.conn.Close()
	}
}
