package config

import (
	"cmp"
	"net/url"
	"path/filepath"
	"runtime"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

// Complete sets the defaults that depend on Dendrite's part of the configuration.
func (c *FutureServer) Complete(d *config.Dendrite) error {
	c.chooseRooms(d)
	return c.chooseDatabase(d)
}

// RoomsDatabase returns where the roomserver keeps the rooms: in a database of its own or, without one, in the global one.
func RoomsDatabase(d *config.Dendrite) config.DataSource {
	return cmp.Or(d.RoomServer.Database.ConnectionString, d.Global.DatabaseOptions.ConnectionString)
}

// chooseRooms sets RoomsInFlight if it is 0. On SQLite Dendrite writes one event at a time, and two rooms keep that
// writer busy. On PostgreSQL each room keeps about one processor busy. More rooms would take the processors away from
// everything else.
func (c *FutureServer) chooseRooms(d *config.Dendrite) {
	if c.RoomsInFlight == 0 {
		c.RoomsInFlight = min(max(2, runtime.NumCPU()), 8)
		if RoomsDatabase(d).IsSQLite() {
			c.RoomsInFlight = 2
		}
	}
}

// chooseDatabase sets Database if the section names none. If the global database is PostgreSQL, it is that one.
// Otherwise it is the roomserver's PostgreSQL database, or a file beside the roomserver's SQLite file, so that the two
// do not wait for each other. A relative path is relative to the working directory, as everywhere in Dendrite.
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

// FileDataSource returns the connection string of a SQLite file, for any characters in its path.
func FileDataSource(path string) config.DataSource {
	if filepath.IsAbs(path) {
		return config.DataSource((&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String())
	}
	return config.DataSource("file:" + path)
}
