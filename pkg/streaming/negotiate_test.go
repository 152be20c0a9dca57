package streaming

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func upgradeRequest(upgrade, header, protocols string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if upgrade != "" {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", upgrade)
	}
	if protocols != "" {
		r.Header.Set(header, protocols)
	}
	return r
}

const (
	wsHeader   = "Sec-WebSocket-Protocol"
	spdyHeader = "X-Stream-Protocol-Version"
)

func TestCheckCommand(t *testing.T) {
	out := Options{Stdout: true}
	tests := map[string]struct {
		request *http.Request
		opts    Options
		want    string // part of the error; none if empty
	}{
		"v5":               {upgradeRequest("websocket", wsHeader, "v5.channel.k8s.io"), out, ""},
		"v5 is preferred":  {upgradeRequest("websocket", wsHeader, "v6.channel.k8s.io, v5.channel.k8s.io"), out, ""},
		"oldest WebSocket": {upgradeRequest("websocket", wsHeader, ""), out, ""},
		"base64":           {upgradeRequest("websocket", wsHeader, "base64.channel.k8s.io"), out, ""},
		"SPDY":             {upgradeRequest("SPDY/3.1", spdyHeader, "v4.channel.k8s.io"), out, ""},
		"plain request":    {upgradeRequest("", spdyHeader, "v4.channel.k8s.io"), out, "Upgrade request required"},
		"other upgrade":    {upgradeRequest("h2c", spdyHeader, "v4.channel.k8s.io"), out, "Upgrade request required"},
		"SPDY protocol":    {upgradeRequest("SPDY/3.1", spdyHeader, "v9.channel.k8s.io"), out, "unable to negotiate protocol"},
		"no SPDY protocol": {upgradeRequest("SPDY/3.1", spdyHeader, ""), out, "unable to negotiate protocol"},
		"tunnel is not for commands": {
			upgradeRequest("websocket", wsHeader, "SPDY/3.1+portforward.k8s.io"), out, "unable to negotiate protocol",
		},
		"no stream":      {upgradeRequest("websocket", wsHeader, ""), Options{TTY: true}, "at least 1 of"},
		"tty and stderr": {upgradeRequest("websocket", wsHeader, ""), Options{Stdout: true, Stderr: true, TTY: true}, "tty and stderr"},
	}
	s := NewServer(Config{})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { checkError(t, s.CheckCommand(test.request, test.opts), test.want) })
	}
}

func TestCheckPortForward(t *testing.T) {
	many := make([]int32, maxPorts+1)
	for i := range many {
		many[i] = 80
	}
	tests := map[string]struct {
		request *http.Request
		ports   []int32
		want    string
	}{
		"SPDY":                 {upgradeRequest("SPDY/3.1", spdyHeader, "portforward.k8s.io"), nil, ""},
		"tunnel":               {upgradeRequest("websocket", wsHeader, "SPDY/3.1+portforward.k8s.io"), nil, ""},
		"WebSocket":            {upgradeRequest("websocket", wsHeader, "v4.channel.k8s.io"), []int32{80, 443}, ""},
		"plain request":        {upgradeRequest("", "", ""), nil, "Upgrade request required"},
		"tunnel of another":    {upgradeRequest("websocket", wsHeader, "SPDY/3.1+exec.k8s.io"), nil, "unable to negotiate protocol"},
		"WebSocket, no ports":  {upgradeRequest("websocket", wsHeader, "v4.channel.k8s.io"), nil, "at least 1 port"},
		"WebSocket, bad port":  {upgradeRequest("websocket", wsHeader, "v4.channel.k8s.io"), []int32{70000}, "port 70000"},
		"WebSocket, many":      {upgradeRequest("websocket", wsHeader, "v4.channel.k8s.io"), many, "too many"},
		"WebSocket for exec":   {upgradeRequest("websocket", wsHeader, "v5.channel.k8s.io"), []int32{80}, "unable to negotiate protocol"},
		"SPDY for exec":        {upgradeRequest("SPDY/3.1", spdyHeader, "v4.channel.k8s.io"), nil, "unable to negotiate protocol"},
		"SPDY with more lines": {upgradeRequest("SPDY/3.1", spdyHeader, "a,portforward.k8s.io"), nil, ""},
	}
	s := NewServer(Config{})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { checkError(t, s.CheckPortForward(test.request, test.ports), test.want) })
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v, want %q", err, want)
	}
	if !apierrors.IsBadRequest(err) {
		t.Errorf("%v is not a BadRequest", err)
	}
}

func TestCheckAfterShutdown(t *testing.T) {
	s := NewServer(Config{})
	if err := s.Shutdown(context.Background(), http.ErrServerClosed); err != nil {
		t.Fatal(err)
	}
	err := s.CheckCommand(upgradeRequest("websocket", wsHeader, ""), Options{Stdout: true})
	if !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
}
