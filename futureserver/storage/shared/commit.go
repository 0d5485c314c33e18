package shared

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// maxForgotten bounds how many rows one statement deletes, so that no batch takes long.
const maxForgotten = 1000

const forget = `
DELETE FROM futureserver_events WHERE nid IN (
	SELECT nid FROM futureserver_events WHERE finished_ts > 0 AND finished_age < $1
	ORDER BY finished_age LIMIT $2
)`

// trim reads all finished delayed events of one user. There are few more than the user may keep.
const trim = `
DELETE FROM futureserver_events WHERE nid IN (
	SELECT e.nid FROM futureserver_events e
	WHERE e.user_id = $1 AND ` + isDelayed + `
	ORDER BY e.finished_age DESC, e.nid DESC LIMIT $2 OFFSET $3
)`

const (
	selectUser = `SELECT user_id FROM futureserver_events WHERE nid = $1`
	nextUser   = `
SELECT e.user_id FROM futureserver_events e WHERE e.user_id > $1 AND ` + isDelayed + ` ORDER BY e.user_id LIMIT 1`
)

// usersPerBatch is how many users are trimmed in turn with each batch.
const usersPerBatch = 30

const storeAge = `UPDATE futureserver_owner SET age_ms = $1 WHERE age_ms < $1`

// Commit implements storage.Database.
func (d *Database) Commit(ctx context.Context, b *storage.Batch) (storage.Result, error) {
	tx, err := d.writer.Begin(ctx)
	if err != nil {
		return storage.Result{}, fmt.Errorf("begin to store futures: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit, and cannot help before one
	r, err := d.apply(ctx, tx, b)
	if err != nil {
		return storage.Result{}, err
	}
	if err = tx.Commit(); err != nil {
		return storage.Result{}, fmt.Errorf("commit futures: %w", err)
	}
	return r, nil
}

func (d *Database) apply(ctx context.Context, tx *sql.Tx, b *storage.Batch) (r storage.Result, err error) {
	if r.Duplicate, err = d.insert(ctx, tx, b.Inserts); err != nil {
		return r, fmt.Errorf("insert futures: %w", err)
	}
	raises, exact := merge(b.Extends)
	if len(raises) > 0 {
		if err = d.writer.Raise(ctx, tx, raises); err != nil {
			return r, fmt.Errorf("raise deadlines: %w", err)
		}
	}
	if len(exact) > 0 {
		if err = d.writer.Set(ctx, tx, exact); err != nil {
			return r, fmt.Errorf("set deadlines: %w", err)
		}
	}
	if r.Lost, err = d.claim(ctx, tx, b.Claims); err != nil {
		return r, fmt.Errorf("claim futures: %w", err)
	}
	if err = d.end(ctx, tx, b.Ends); err != nil {
		return r, fmt.Errorf("end futures: %w", err)
	}
	if len(b.Undos) > 0 {
		if err = d.writer.Undo(ctx, tx, b.Undos); err != nil {
			return r, fmt.Errorf("take back futures: %w", err)
		}
	}
	if err = delegate(ctx, tx, b.Delegations); err != nil {
		return r, fmt.Errorf("store delegations: %w", err)
	}
	if r.Forgotten, err = d.forgetOld(ctx, tx, b); err != nil {
		return r, fmt.Errorf("forget futures: %w", err)
	}
	return r, nil
}

const (
	storeDelegation = `
INSERT INTO futureserver_delegations (nid, body) VALUES ($1, $2) ON CONFLICT (nid) DO UPDATE SET body = excluded.body`
	deleteDelegation = `DELETE FROM futureserver_delegations WHERE nid = $1`
)

func delegate(ctx context.Context, tx *sql.Tx, delegations []storage.Delegation) (err error) {
	for _, d := range delegations {
		if d.Body == nil {
			_, err = tx.ExecContext(ctx, deleteDelegation, int64(d.NID))
		} else {
			_, err = tx.ExecContext(ctx, storeDelegation, int64(d.NID), d.Body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forgetOld stores the age and deletes finished futures: those older than ForgetBefore, and those beyond KeepPerUser.
func (d *Database) forgetOld(ctx context.Context, tx *sql.Tx, b *storage.Batch) (forgotten int, err error) {
	if b.Age != 0 {
		if _, err = tx.ExecContext(ctx, storeAge, b.Age); err != nil {
			return 0, err
		}
	}
	if b.ForgetBefore != 0 {
		if forgotten, err = Affected(tx.ExecContext(ctx, forget, b.ForgetBefore, maxForgotten)); err != nil {
			return 0, err
		}
	}
	if b.KeepPerUser != 0 {
		n, err := d.trimUsers(ctx, tx, b)
		return forgotten + n, err
	}
	return forgotten, nil
}

// trimUsers deletes the finished futures beyond KeepPerUser of the users in Trims and of the next few users in turn.
func (d *Database) trimUsers(ctx context.Context, tx *sql.Tx, b *storage.Batch) (forgotten int, err error) {
	trimUser := func(user []byte) error {
		n, err := Affected(tx.ExecContext(ctx, trim, user, maxForgotten, b.KeepPerUser))
		forgotten += n
		return err
	}
	for _, nid := range b.Trims {
		var user []byte
		if err = tx.QueryRowContext(ctx, selectUser, int64(nid)).Scan(&user); err == nil {
			err = trimUser(user)
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
	}
	after := d.trimmed
	for range usersPerBatch {
		var user []byte
		err = tx.QueryRowContext(ctx, nextUser, after).Scan(&user)
		if errors.Is(err, sql.ErrNoRows) {
			after = []byte{}
			break
		}
		if err == nil {
			after = user
			err = trimUser(user)
		}
		if err != nil {
			return 0, err
		}
	}
	d.trimmed = after
	return forgotten, nil
}

// Affected returns how many rows a statement has changed. It takes the two results of Exec.
func Affected(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

func (d *Database) insert(ctx context.Context, tx *sql.Tx, futures []*api.Future) ([]bool, error) {
	duplicate := make([]bool, len(futures))
	if len(futures) == 0 {
		return duplicate, nil
	}
	stored, err := d.writer.Insert(ctx, tx, futures)
	if err != nil {
		return nil, err
	}
	for i, f := range futures {
		if !stored[i] {
			if duplicate[i], err = isDuplicate(ctx, tx, f); err != nil {
				return nil, err
			}
		}
	}
	return duplicate, nil
}

// isDuplicate reports why a future was not stored: true if a finished future has its secret, false if it is stored
// already because the same batch was committed before.
func isDuplicate(ctx context.Context, tx *sql.Tx, f *api.Future) (bool, error) {
	var secret []byte
	err := tx.QueryRowContext(ctx, "SELECT secret FROM futureserver_events WHERE nid = $1", int64(f.NID)).Scan(&secret)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return true, nil
	case err == nil && string(secret) != string(f.Secret[:]):
		return false, fmt.Errorf("the number %d belongs to another future", f.NID)
	}
	return false, err
}

// merge combines the extensions of each future into one. An exact extension replaces those before it. Both results are
// in order of NID, which is the order on disk.
func merge(extends []storage.Extend) (raises, exact []storage.Extend) {
	sorted := slices.SortedStableFunc(slices.Values(extends), func(a, b storage.Extend) int {
		return cmp.Compare(a.NID, b.NID)
	})
	for len(sorted) > 0 {
		e := sorted[0]
		for sorted = sorted[1:]; len(sorted) > 0 && sorted[0].NID == e.NID; sorted = sorted[1:] {
			if next := sorted[0]; next.Exact {
				e = next
			} else {
				e.Deadline = max(e.Deadline, next.Deadline)
			}
		}
		if e.Exact {
			exact = append(exact, e)
		} else {
			raises = append(raises, e)
		}
	}
	return raises, exact
}

// claim applies the claims in their order. Claims that name no future twice are applied together.
func (d *Database) claim(ctx context.Context, tx *sql.Tx, claims []storage.Claim) ([]bool, error) {
	lost := make([]bool, 0, len(claims))
	for len(claims) > 0 {
		n := independent(claims)
		won, err := d.writer.Claim(ctx, tx, claims[:n])
		if err != nil {
			return nil, err
		}
		var ends []storage.End
		for i, c := range claims[:n] {
			lost = append(lost, !won[i])
			if won[i] {
				for _, nid := range c.Discards {
					ends = append(ends, storage.End{NID: nid, State: api.Discarded, At: c.At})
				}
			}
		}
		if err = d.end(ctx, tx, ends); err != nil {
			return nil, err
		}
		claims = claims[n:]
	}
	return lost, nil
}

// independent returns the length of the longest prefix of claims that names no future twice.
func independent(claims []storage.Claim) int {
	seen := make(map[api.NID]bool, len(claims))
	for i, c := range claims {
		for _, nid := range append(c.Discards[:len(c.Discards):len(c.Discards)], c.NID) {
			if seen[nid] && i > 0 {
				return i
			}
			seen[nid] = true
		}
	}
	return len(claims)
}

// end applies the first end of each future and ignores later ones.
func (d *Database) end(ctx context.Context, tx *sql.Tx, ends []storage.End) error {
	if len(ends) == 0 {
		return nil
	}
	seen := make(map[api.NID]bool, len(ends))
	first := make([]storage.End, 0, len(ends))
	for _, e := range ends {
		if !seen[e.NID] {
			seen[e.NID] = true
			first = append(first, e)
		}
	}
	for i := range first {
		if first[i].Age == 0 {
			first[i].Age = first[i].At
		}
	}
	return d.writer.End(ctx, tx, first)
}
