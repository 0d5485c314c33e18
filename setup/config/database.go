package config

import (
	"cmp"
	"net/url"
	"path/filepath"
	"runtime"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

// Complete fills in what depends on Dendrite's part of the configuration.
func (c *FutureServer) Complete(d *config.Dendrite) error {
	c.chooseRooms(d)
	return c.chooseDatabase(d)
}

// RoomsDatabase returns where the roomserver keeps the rooms: in a database of its own or, without one, in the global one.
func RoomsDatabase(d *config.Dendrite) config.DataSource {
	return cmp.Or(d.RoomServer.Database.ConnectionString, d.Global.DatabaseOptions.ConnectionString)
}

// chooseRooms sets RoomsInFlight where it is 0. On SQLite Dendrite writes one event at a time anyhow: with two rooms that
// writer is busy. On PostgreSQL each room keeps about one processor busy. More would only take the processors from those
// who have nothing to do with a storm.
func (c *FutureServer) chooseRooms(d *config.Dendrite) {
	if c.RoomsInFlight == 0 {
		c.RoomsInFlight = min(max(2, runtime.NumCPU()), 8)
		if RoomsDatabase(d).IsSQLite() {
			c.RoomsInFlight = 2
		}
	}
}

// chooseDatabase fills in Database where the section names none: the global database if it is PostgreSQL,
// else what the roomserver has: its PostgreSQL database, or a file of its own beside the roomserver's SQLite
// file, so that the two do not wait for each other. A relative path is relative to the working directory,
// as all of Dendrite's are.
func (c *FutureServer) chooseDatabase(d *config.Dendrite) error {
	db := &c.Database
	if db.ConnectionString == "" {
		db.ConnectionString = cmp.Or(d.Global.DatabaseOptions.ConnectionString, d.RoomServer.Database.ConnectionString)
		if db.ConnectionString.IsSQLite() {
			path, err := sqlutil.ParseFileURI(db.ConnectionString)
			if err != nil {
				return err
			}
			db.ConnectionString = FileDataSource(filepath.Join(filepath.Dir(path), "futureserver.db"))
		}
	}
	if db.MaxOpenConnections == 0 { // one writes, the others read
		db.MaxOpenConnections, db.MaxIdleConnections = 4, 4
	}
	return nil
}

// FileDataSource is the connection string of a SQLite file, whatever characters its path holds.
func FileDataSource(path string) config.DataSource {
	if filepath.IsAbs(path) {
		return config.DataSource((&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String())
	}
	return config.DataSource("file:" + path)
}
