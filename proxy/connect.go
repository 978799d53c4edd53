//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/telemetry"
)

// connectMethod serves CONNECT: a tunnel by name or address at an explicit
// proxy port, refused elsewhere.
func (d *downstream) connectMethod() {
	d.last = true
	d.x.details = "route_not_found"
	d.reply(405, telemetry.FlagNR, "CONNECT is not configured here")
}
