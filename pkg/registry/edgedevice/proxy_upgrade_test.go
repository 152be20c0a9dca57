package edgedevice_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/streaming"
)

// A port that takes an upgrade and never answers holds no stream of the device once nobody waits for it.
func TestProxyUpgradeThatIsNotAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		config streaming.Config
		end    func(t *testing.T, a *api, client net.Conn)
		code   int // 0: there is nobody to answer
		want   string
	}{
		"the client leaves": {end: func(_ *testing.T, _ *api, client net.Conn) { client.Close() }},
		"aranya ends": {end: func(t *testing.T, a *api, _ net.Conn) {
			if err := a.server.Shutdown(t.Context(), errors.New("shutting down")); err != nil {
				t.Error(err)
			}
		}, code: http.StatusServiceUnavailable, want: "shutting down"},
		"the time is over": {config: streaming.Config{UpgradeTimeout: time.Millisecond}, code: http.StatusGatewayTimeout, want: "not upgraded within 1ms"},
	} {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				a := newStreamingAPI(t, map[string]may{"admin": {"*"}}, test.config)
				port, reached := silentPort(t)
				client := beginUpgrade(t, a, scheme+":online:"+port)
				if test.end != nil {
					<-reached
					test.end(t, a, client)
				}
				if test.code != 0 {
					response, err := http.ReadResponse(bufio.NewReader(client), nil)
					if err != nil {
						t.Fatal(err)
					}
					defer response.Body.Close()
					if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != test.code || !strings.Contains(string(body), test.want) {
						t.Errorf("%v, answered with %s: %s", err, response.Status, body)
					}
				}
				a.session.Idle(t)
			})
		}
	}
}

// silentPort accepts connections and sends nothing. Of each that something was sent to it tells.
func silentPort(t *testing.T) (port string, reached <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sent, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				sent <- struct{}{}
			}
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port), sent
}

// beginUpgrade asks for an upgrade on a connection that is closed with the test.
func beginUpgrade(t *testing.T, a *api, device string) net.Conn {
	t.Helper()
	client, err := net.Dial("tcp", a.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url(device, "proxy/socket", "").String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer admin")
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "echo")
	if err := request.Write(client); err != nil {
		t.Fatal(err)
	}
	return client
}
