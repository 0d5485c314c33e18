package guard

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/highwayhash"
	"github.com/sirupsen/logrus"
)

// The fault: a crash or a full disk truncates a file of JetStream's folder. A truncated o.dat, a consumer's position,
// crashes nats-server 2.11 at each start with a nil pointer. If a meta file is truncated, JetStream ignores the
// consumer, and at once drops the messages that only this consumer had not read. Reproduced by: TestTornFolder. Can go
// when nats-server starts with any files and drops nothing.

// MendFolder repairs JetStream's folder below dir. Call it before JetStream is started. It removes what cannot be read:
//
//   - o.dat: the consumer reads all messages again that JetStream still has.
//   - a stream's meta files: Dendrite creates the stream again, with the existing messages.
//   - a consumer with its position, and its stream's meta files, so that JetStream drops no message of that stream
//     before all of its consumers exist again. Dendrite creates the consumer again; the others keep their positions.
func MendFolder(dir string) error {
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*"))
	if err != nil {
		return err
	}
	for _, stream := range streams {
		if err := mendStream(stream); err != nil {
			return fmt.Errorf("JetStream's folder %s cannot be repaired: %w. If it cannot be made readable, move it away: "+
				"events that clients have not seen yet will be missing in /sync", stream, err)
		}
	}
	return nil
}

func mendStream(stream string) error {
	whole, err := hasMeta(stream)
	if err != nil {
		return err
	}
	consumers, err := os.ReadDir(filepath.Join(stream, "obs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range consumers {
		consumer := filepath.Join(stream, "obs", entry.Name())
		if err := mendPosition(filepath.Join(consumer, "o.dat")); err != nil {
			return err
		}
		ok, err := hasMeta(consumer)
		if err == nil && !ok {
			logrus.Warnf("JetStream's folder %s cannot be read: its consumer reads all remaining messages again", consumer)
			err = os.RemoveAll(consumer)
		}
		if err != nil {
			return err
		}
		whole = whole && ok
	}
	if whole {
		return nil
	}
	logrus.Warnf("JetStream's folder %s cannot be read: the stream is created again, with its messages", stream)
	return removeMeta(stream)
}

const metaFile, sumFile = "meta.inf", "meta.sum"

// hasMeta reports whether JetStream can read the meta files of a stream or a consumer.
func hasMeta(dir string) (bool, error) {
	meta, err := readIfThere(filepath.Join(dir, metaFile))
	if err != nil {
		return false, err
	}
	sum, err := readIfThere(filepath.Join(dir, sumFile))
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.key")); err == nil {
		return true, nil // encrypted; Dendrite never configures that
	}
	name := filepath.Base(dir)
	if parent := filepath.Dir(dir); filepath.Base(parent) == "obs" {
		name = filepath.Base(filepath.Dir(parent)) + "/" + name
	}
	key := sha256.Sum256([]byte(name))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return false, err
	}
	hash.Write(meta)
	return json.Valid(meta) && hex.EncodeToString(hash.Sum(nil)) == string(sum), nil
}

func removeMeta(dir string) error {
	for _, name := range []string{metaFile, sumFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readIfThere returns nil if the file does not exist.
func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// mendPosition removes a consumer's o.dat if JetStream could not read it.
func mendPosition(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && isPosition(data) {
		return nil
	}
	if err != nil {
		return err
	}
	logrus.Warnf("JetStream's file %s cannot be read: its consumer reads all remaining messages again", path)
	return os.Remove(path)
}

// isPosition reports whether data is a complete o.dat: two bytes of header, then numbers of variable length. First come
// four numbers for the position; then the number of unacknowledged messages, a time, and three numbers for each of
// them; then the number of redelivered messages, and two numbers for each of them.
func isPosition(data []byte) bool {
	const mark = 22
	if len(data) < 2 || data[0] != mark {
		return false
	}
	perMessage := map[byte]uint64{1: 2, 2: 3}[data[1]]
	rest := numbers(data[2:])
	for range 4 {
		if rest.next()>>63 != 0 {
			return false
		}
	}
	if inHand := rest.next(); inHand > 0 {
		rest.skip(1)
		rest.skip(perMessage * min(inHand, uint64(len(data))))
	}
	rest.skip(2 * min(rest.next(), uint64(len(data))))
	return perMessage > 0 && rest != nil
}

// numbers is the rest of a file; nil if it was too short. The last number may end the file.
type numbers []byte

func (n *numbers) next() uint64 {
	v, size := binary.Uvarint(*n)
	if size <= 0 {
		*n = nil
		return 0
	}
	*n = (*n)[size:]
	return v
}

func (n *numbers) skip(count uint64) {
	for ; count > 0 && *n != nil; count-- {
		n.next()
	}
}
