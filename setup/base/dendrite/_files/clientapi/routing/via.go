package routing

import (
	"net/http"
	"slices"
)

// serversToJoinThrough returns the servers that a request names by the parameter via (MSC4156) or, without it, by the old
// server_name. Many clients send both.
func serversToJoinThrough(req *http.Request) []string {
	query := req.URL.Query()
	servers := query["via"]
	for _, server := range query["server_name"] {
		if !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	return servers
}
