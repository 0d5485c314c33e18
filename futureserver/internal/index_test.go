package internal

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// len counts the tokens in the index.
func (x *index) len() (n int) {
	for i := range x.shards {
		n += x.shards[i].used
	}
	return n
}

// The token index against a map. All tokens are forced into one shard and few fingerprints, so that runs,
// gaps and equal fingerprints happen all the time.
func TestIndexAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		secrets := map[uint32]api.Secret{}
		want := map[ref]bool{}
		secretOf := func(slot uint32) *api.Secret { s := secrets[slot]; return &s }
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			slot := uint32(rapid.IntRange(1, 60).Draw(t, "slot"))
			kind := api.TokenKind(rapid.IntRange(0, 2).Draw(t, "kind"))
			if _, ok := secrets[slot]; !ok {
				secrets[slot] = api.Secret{byte(slot)}
			}
			token := secrets[slot].Token(kind)
			r := newRef(slot, kind)
			switch {
			case want[r]:
				x.remove(token, slot, kind)
				delete(want, r)
			default:
				x.add(token, slot, kind)
				want[r] = true
			}
			for slot, secret := range secrets {
				for kind := range api.GroupToken {
					gotSlot, gotKind, ok := x.find(secret.Token(kind), secretOf)
					if ok != want[newRef(slot, kind)] || ok && (gotSlot != slot || gotKind != kind) {
						t.Fatalf("slot %d kind %d: found %v (%d, %d), want %v", slot, kind, ok, gotSlot, gotKind, !ok)
					}
				}
			}
		}
	})
}

// A shard by itself, with fingerprints that collide.
func TestShardClosesGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := shard{}
		want := map[ref]fingerprint{}
		prints := rapid.SampledFrom([]fingerprint{0, 1, 1 << 12, 1<<12 + 1, 1 << 15, 1<<16 - 2, 1<<16 - 1})
		place := func(r ref) int {
			for i := s.home(want[r]); s.refs[i] != 0; i = s.after(i) {
				if s.refs[i] == r {
					return i
				}
			}
			t.Fatalf("%d is not found from its home", r)
			return 0
		}
		for i := range rapid.IntRange(1, 120).Draw(t, "steps") {
			if len(want) > 0 && rapid.Bool().Draw(t, "remove") {
				r := rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "which")
				s.closeGap(place(r))
				s.used--
				delete(want, r)
				continue
			}
			if s.used+1 > len(s.refs)*7/8 {
				s.grow()
			}
			r := newRef(uint32(i+1), 0)
			want[r] = prints.Draw(t, "fingerprint")
			s.insert(r, want[r])
			s.used++
		}
		found := 0
		for _, r := range s.refs {
			if r != 0 {
				found++
			}
		}
		if found != len(want) || s.used != found {
			t.Fatalf("%d entries, %d counted, want %d", found, s.used, len(want))
		}
		for r := range want {
			place(r)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	const n = 1_000_000
	var x index
	secrets := make([]api.Secret, n+1)
	for i := 1; i <= n; i++ {
		secrets[i] = api.NewSecret()
		for k := range api.GroupToken {
			x.add(secrets[i].Token(k), uint32(i), k)
		}
	}
	secretOf := func(slot uint32) *api.Secret { return &secrets[slot] }
	tokens := make([]api.Token, 1<<16)
	for i := range tokens {
		tokens[i] = secrets[1+i*7919%n].Token(api.RefreshToken)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, _, ok := x.find(tokens[i&(1<<16-1)], secretOf); !ok {
			b.Fatal("lost")
		}
		i++
	}
}
