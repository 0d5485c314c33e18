package gomatrixserverlib

import (
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"golang.org/x/crypto/ed25519"
)

// checkMember is rule 5.
func (r *rules12) checkMember() error {
	target := r.event.StateKey()
	membership := gjson.GetBytes(r.event.Content(), "membership")
	if target == nil || membership.Type != gjson.String { // 5.1
		return errorf("a member event has a state key and a membership")
	}
	if _, err := spec.NewUserID(*target, true); err != nil {
		return errorf("%q is no user ID", *target)
	}
	if err := r.checkFederation(*target); err != nil {
		return err
	}
	current, err := r.membership(*target)
	if err != nil {
		return err
	}
	c := memberChange{rules12: r, target: *target, current: current}
	if c.own, err = r.membership(r.sender()); err != nil {
		return err
	}
	switch membership.Str {
	case spec.Join:
		return c.checkJoin()
	case spec.Invite:
		return c.checkInvite()
	case spec.Leave:
		return c.checkLeave()
	case spec.Ban:
		return c.checkBan()
	case spec.Knock:
		return c.checkKnock()
	}
	return errorf("unknown membership %q", membership.Str) // 5.8
}

// memberChange is the change that a member event makes.
type memberChange struct {
	*rules12
	target  string
	current string // the target's membership before
	own     string // the sender's
}

func (c *memberChange) isOwn() bool { return c.target == c.sender() }

func (c *memberChange) refused() error {
	return errorf("%q must not change the membership of %q from %q to %q", c.sender(), c.target, c.current,
		gjson.GetBytes(c.event.Content(), "membership").Str)
}

// joinRule returns the room's join rule, "invite" if it has none.
func (c *memberChange) joinRule() (string, error) {
	rules, err := c.auth.JoinRules()
	if err != nil || rules == nil {
		return spec.Invite, err
	}
	if rule := gjson.GetBytes(rules.Content(), "join_rule"); rule.Exists() {
		return rule.Str, nil
	}
	return spec.Invite, nil
}

func (c *memberChange) checkJoin() error { // 5.3
	prev := c.event.PrevEventIDs()
	if len(prev) == 1 && prev[0] == c.create.EventID() && c.target == string(c.create.SenderID()) {
		return nil
	}
	if !c.isOwn() || c.current == spec.Ban {
		return c.refused()
	}
	rule, err := c.joinRule()
	if err != nil {
		return err
	}
	invited := c.current == spec.Join || c.current == spec.Invite
	switch rule {
	case spec.Public:
		return nil
	case spec.Invite, spec.Knock:
		if invited {
			return nil
		}
	case spec.Restricted, spec.KnockRestricted:
		if invited {
			return nil
		}
		return c.checkAuthorised()
	}
	return c.refused()
}

// checkAuthorised checks the user who has authorised a restricted join. The signature of that user's server was checked
// with the other signatures.
func (c *memberChange) checkAuthorised() error {
	via := gjson.GetBytes(c.event.Content(), "join_authorised_via_users_server").Str
	if via == "" {
		return c.refused()
	}
	if m, err := c.membership(via); err != nil || m != spec.Join {
		return errorf("%q, who authorises the join, is not in the room", via)
	}
	return enough(c.userLevel(via), c.named("invite", 0), "to authorise the join")
}

func (c *memberChange) checkInvite() error { // 5.4
	if invite := gjson.GetBytes(c.event.Content(), "third_party_invite"); invite.Exists() {
		return c.checkThirdParty(invite)
	}
	if c.own != spec.Join || c.current == spec.Join || c.current == spec.Ban {
		return c.refused()
	}
	return enough(c.userLevel(c.sender()), c.named("invite", 0), "to invite")
}

func (c *memberChange) checkThirdParty(invite gjson.Result) error {
	signed := invite.Get("signed")
	token := signed.Get("token").Str
	if c.current == spec.Ban || token == "" || signed.Get("mxid").Str != c.target {
		return c.refused()
	}
	event, err := c.auth.ThirdPartyInvite(token)
	if err != nil {
		return err
	}
	if event == nil || event.SenderID() != c.event.SenderID() {
		return c.refused()
	}
	if !isSignedByAny(signed, thirdPartyKeys(event)) {
		return errorf("no key of the third party invite has signed that it is for %q", c.target)
	}
	return nil
}

// thirdPartyKeys returns the valid keys of a third party invite.
func thirdPartyKeys(event PDU) (keys []spec.Base64Bytes) {
	content := gjson.ParseBytes(event.Content())
	named := append(content.Get("public_keys.#.public_key").Array(), content.Get("public_key"))
	for _, name := range named {
		var key spec.Base64Bytes
		if key.Decode(name.Str) == nil && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	return keys
}

func isSignedByAny(signed gjson.Result, keys []spec.Base64Bytes) (found bool) {
	signed.Get("signatures").ForEach(func(server, signatures gjson.Result) bool {
		signatures.ForEach(func(id, _ gjson.Result) bool {
			for _, key := range keys {
				if strings.HasPrefix(id.Str, "ed25519:") &&
					VerifyJSON(server.Str, KeyID(id.Str), ed25519.PublicKey(key), []byte(signed.Raw)) == nil {
					found = true
				}
			}
			return !found
		})
		return !found
	})
	return found
}

func (c *memberChange) checkLeave() error { // 5.5
	if c.isOwn() {
		if c.current == spec.Join || c.current == spec.Invite || c.current == spec.Knock {
			return nil
		}
		return c.refused()
	}
	if c.own != spec.Join {
		return c.refused()
	}
	level := c.userLevel(c.sender())
	if c.current == spec.Ban {
		if err := enough(level, c.named("ban", 50), "to lift a ban"); err != nil {
			return err
		}
	}
	return c.checkRemoval(level, "kick")
}

func (c *memberChange) checkBan() error { // 5.6
	if c.own != spec.Join {
		return c.refused()
	}
	return c.checkRemoval(c.userLevel(c.sender()), "ban")
}

func (c *memberChange) checkRemoval(level int64, how string) error {
	if err := enough(level, c.named(how, 50), "to "+how); err != nil {
		return err
	}
	if c.userLevel(c.target) >= level {
		return c.refused()
	}
	return nil
}

func (c *memberChange) checkKnock() error { // 5.7
	rule, err := c.joinRule()
	if err != nil {
		return err
	}
	if rule != spec.Knock && rule != spec.KnockRestricted || !c.isOwn() {
		return c.refused()
	}
	if c.current == spec.Join || c.current == spec.Invite || c.current == spec.Ban {
		return c.refused()
	}
	return nil
}
