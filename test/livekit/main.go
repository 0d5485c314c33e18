// Command livekit is LiveKit's part of the tests in test/rtc: it reads our tokens with LiveKit's own library, and is a
// participant of a real SFU. It has a module of its own because LiveKit needs newer versions of modules that the
// homeserver shares with Dendrite.
//
//	livekit verify SECRET TOKEN    prints what LiveKit reads in the token, as JSON
//	livekit join URL TOKEN         joins, prints "joined ROOM IDENTITY", and "left" when it is removed
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"

	"github.com/gorilla/websocket"
	"github.com/livekit/protocol/auth"
	"github.com/livekit/protocol/livekit"
	"google.golang.org/protobuf/proto"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: livekit verify SECRET TOKEN | livekit join URL TOKEN")
	}
	command := map[string]func(string, string) error{"verify": verify, "join": join}[os.Args[1]]
	if command == nil {
		log.Fatalf("there is no command %q", os.Args[1])
	}
	if err := command(os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func verify(secret, token string) error {
	parsed, err := auth.ParseAPIToken(token)
	if err != nil {
		return err
	}
	_, claims, err := parsed.Verify(secret)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"key": parsed.APIKey(), "identity": parsed.Identity(), "video": claims.Video,
	})
}

// join uses only as much of the protocol as is needed to join; it never connects media.
func join(address, token string) error {
	query := url.Values{"access_token": {token}, "protocol": {"15"}, "auto_subscribe": {"0"}}
	conn, resp, err := websocket.DefaultDialer.Dial(address+"/rtc?"+query.Encode(), nil)
	if err != nil {
		if resp != nil {
			return fmt.Errorf("%w: %s", err, resp.Status)
		}
		return err
	}
	defer conn.Close()
	for joined := false; ; {
		_, data, err := conn.ReadMessage()
		if err != nil {
			if joined {
				fmt.Println("left")
				return nil
			}
			return err
		}
		var message livekit.SignalResponse
		if err := proto.Unmarshal(data, &message); err != nil {
			return errors.New("a message that is no SignalResponse")
		}
		switch m := message.Message.(type) {
		case *livekit.SignalResponse_Join:
			joined = true
			fmt.Println("joined", m.Join.Room.Name, m.Join.Participant.Identity)
		case *livekit.SignalResponse_Leave:
			fmt.Println("left")
			return nil
		}
	}
}
