package edgedevice_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// exec runs a command with one of kubectl's clients.
func (a *api) exec(t *testing.T, client string, u *url.URL, opts remotecommand.StreamOptions) error {
	t.Helper()
	config := &restclient.Config{Host: "http://" + a.host, BearerToken: "admin"}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if client == wsGET {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	return executor.StreamWithContext(ctx, opts)
}

func TestExec(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	for _, client := range []string{spdyPOST, wsGET} {
		t.Run(client, func(t *testing.T) {
			var out, errOut bytes.Buffer
			err := a.exec(t, client, a.url("online", "exec", "command=cat&stdin=true&stdout=true"), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
			if err != nil || out.String() != "hello" {
				t.Errorf("cat gave %q, %v", out.String(), err)
			}
			err = a.exec(t, client, a.url("online", "exec", "command=exit&command=42&stderr=true"), remotecommand.StreamOptions{Stderr: &errOut})
			var exit clientexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 42 || errOut.String() != "bye" {
				t.Errorf("exit gave %q, %v", errOut.String(), err)
			}
			out.Reset()
			err = a.exec(t, client, a.url("online", "attach", "stdin=true&stdout=true"), remotecommand.StreamOptions{Stdin: strings.NewReader("attached"), Stdout: &out})
			if err != nil || out.String() != "attached" {
				t.Errorf("attach gave %q, %v", out.String(), err)
			}
		})
	}
}

func TestContainerOfPod(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	for query, want := range map[string]string{
		"pod=web":                   "nginx", // the first
		"pod=web&container=sidecar": "sidecar",
		"pod=annotated":             "main",
		"pod=other/web":             "app",
	} {
		t.Run(query, func(t *testing.T) {
			var out bytes.Buffer
			if err := a.exec(t, spdyPOST, a.url("online", "exec", "command=show&stdout=true&"+query), remotecommand.StreamOptions{Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(out.String(), " ", "")
			if !strings.Contains(got, `"podUid":"uid-of-pod","container":"`+want+`"`) {
				t.Errorf("the device got %s", got)
			}
		})
	}
}

// TestWarningOfChosenContainer: who named no container is told of the one that was taken, in kubectl's words.
func TestWarningOfChosenContainer(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	for query, want := range map[string]string{
		"pod=web":                      `Defaulted container "nginx" out of: nginx, sidecar`,
		"pod=debugged":                 `Defaulted container "app" out of: app, debug (ephem), setup (init)`,
		"pod=web&container=nginx":      "",
		"pod=debugged&container=setup": "",
		"pod=annotated":                "",
		"pod=other/web":                "", // there is but one
	} {
		t.Run(query, func(t *testing.T) {
			response := a.request(t, plainGET, "admin", a.url("online", "log", query), "")
			defer response.Body.Close()
			headers, errs := utilnet.ParseWarningHeaders(response.Header.Values("Warning"))
			if response.StatusCode != http.StatusOK || len(errs) > 0 {
				t.Fatalf("%s, %v", response.Status, errs)
			}
			var got []string
			for _, h := range headers {
				got = append(got, h.Text)
			}
			if strings.Join(got, "; ") != want {
				t.Errorf("got the warnings %q, want %q", got, want)
			}
		})
	}
}

func TestLog(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	for query, want := range map[string]string{
		"":                           `"agent":true`,
		"path=/var/log/syslog":       `"path":"/var/log/syslog"`,
		"unit=ssh.service":           `"unit":"ssh.service"`,
		"pod=web&previous=true":      `"container":"nginx"},"previous":true`,
		"tailLines=7&timestamps=yes": `"timestamps":true`,
	} {
		t.Run(query, func(t *testing.T) {
			response := a.request(t, plainGET, "admin", a.url("online", "log", query), "")
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("%d, %v: %s", response.StatusCode, err, body)
			}
			if got := response.Header.Get("Content-Type"); got != "text/plain" {
				t.Errorf("content type %q", got)
			}
			if got := strings.ReplaceAll(string(body), " ", ""); !strings.Contains(got, want) {
				t.Errorf("the device got %s", got)
			}
		})
	}
}

func TestFollowLogEndsWithItsClient(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	response := a.request(t, plainGET, "admin", a.url("online", "log", "follow=true"), "")
	// What is there arrives although the log goes on.
	if _, err := response.Body.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	a.session.Idle(t)
}

// A log that was cut off does not look complete to its client.
func TestLogCutOff(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	response := a.request(t, plainGET, "admin", a.url("online", "log", "follow=true"), "")
	defer response.Body.Close()
	if _, err := response.Body.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	a.session.Close(errors.New("the link is lost"))
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("the log ended without an error")
	}
	a.session.Idle(t)
}

func TestProxy(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s?%s auth=%q body=%s", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Authorization"), body)
	}))
	defer backend.Close()
	device := fmt.Sprintf("online:%d", backend.Listener.Addr().(*net.TCPAddr).Port)

	u := a.url(device, "proxy/a/b", "x=1")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u.String(), strings.NewReader("payload"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admin")
	r.Close = true
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(body), `PUT /a/b?x=1 auth="" body=payload`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A connection that is upgraded leads to the port of the device, as a site of its own as well, and nowhere in aranya's own
// network.
func TestProxyUpgrade(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	backend := func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"+r.Host+" ")
		_, _ = io.CopyN(conn, rw, 5)
	}
	plain := httptest.NewServer(http.HandlerFunc(backend))
	defer plain.Close()
	encrypted := httptest.NewTLSServer(http.HandlerFunc(backend))
	defer encrypted.Close()
	tests := map[string]struct {
		server       *httptest.Server
		scheme, host string
	}{
		"http":                       {plain, "", ""},
		"http as a site of its own":  {plain, "", "127.0.0.1:9000"},
		"https":                      {encrypted, "https:", ""},
		"https as a site of its own": {encrypted, "https:", "127.0.0.1:9000"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			u := a.url(fmt.Sprintf("%sonline:%d", tc.scheme, tc.server.Listener.Addr().(*net.TCPAddr).Port), "proxy/socket", "")
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer admin")
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "echo")
			host := u.Host
			if tc.host != "" {
				host = tc.host
				r.Header.Set(v1alpha1.ProxyHostHeader, host)
			}
			upgraded, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer upgraded.Body.Close()
			stream, ok := upgraded.Body.(io.ReadWriter)
			if !ok {
				body, _ := io.ReadAll(upgraded.Body)
				t.Fatalf("not upgraded: %s: %s", upgraded.Status, body)
			}
			if _, err := stream.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(stream); err != nil || string(got) != host+" hello" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// A client that shows a device as a site of its own gets pages as they are, and learns of redirects by a header
// that kube-apiserver lets pass.
func TestProxyOfSite(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "http://"+r.Host+"/new", http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a href="/page">%s</a>`, r.Header.Get(v1alpha1.ProxyHostHeader))
	}))
	defer backend.Close()
	device := fmt.Sprintf("online:%d", backend.Listener.Addr().(*net.TCPAddr).Port)
	get := func(path, host string) (code int, header http.Header, body string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url(device, "proxy"+path, "").String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin")
		if host != "" {
			r.Header.Set(v1alpha1.ProxyHostHeader, host)
		}
		r.Close = true
		response, err := http.DefaultTransport.RoundTrip(r) // follows no redirects
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header, string(data)
	}
	const host = "127.0.0.1:9000"
	code, header, _ := get("/old", host)
	if got := header.Get(v1alpha1.ProxyLocationHeader); code != http.StatusFound || got != "http://"+host+"/new" || header.Get("Location") != "" {
		t.Errorf("redirected with %d and %v", code, header)
	}
	for _, root := range []string{"", "/"} { // an aggregator lets no redirect pass from one to the other
		if code, _, body := get(root, host); code != http.StatusOK || body != `<a href="/page"></a>` {
			t.Errorf("proxy%s: %d: the page is %s", root, code, body)
		}
	}
	// Others are led through the API.
	prefix := a.url(device, "proxy", "").Path
	if code, header, _ := get("/old", ""); code != http.StatusFound || !strings.HasSuffix(header.Get("Location"), prefix+"/new") {
		t.Errorf("redirected with %d and %v", code, header)
	}
	for _, root := range []string{"", "/"} {
		if code, _, body := get(root, ""); code != http.StatusOK || body != `<a href="`+prefix+`/page"></a>` {
			t.Errorf("proxy%s: %d: the page is %s", root, code, body)
		}
	}
}

func TestProxyHTTPS(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	backend := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "by ", r.TLS.ServerName)
	}))
	defer backend.Close()
	u := a.url(fmt.Sprintf("https:online:%d", backend.Listener.Addr().(*net.TCPAddr).Port), "proxy/", "")
	if code, body := a.status(t, plainGET, "admin", u, ""); code != http.StatusOK || body != "by localhost" {
		t.Errorf("%d: %s", code, body)
	}
}

func TestToken(t *testing.T) {
	a := newAPI(t, map[string]may{"admin": {"*"}})
	post := func(device, query, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.url(device, "token", query).String(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin")
		r.Header.Set("Content-Type", "application/json")
		r.Close = true
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(got)
	}
	const head = `{"apiVersion":"aranya.arhat.dev/v1alpha1","kind":"EnrollmentToken"`
	refused := []struct {
		name, device, body string
		code               int
		want               string
	}{
		{"unknown device", "nobody", head + `}`, 404, "not found"},
		{"being deleted", "leaving", head + `}`, 409, "being deleted"},
		{"too short", "new", head + `,"spec":{"expirationSeconds":59}}`, 422, "spec.expirationSeconds"},
		{"other name", "new", head + `,"metadata":{"name":"online"}}`, 422, "metadata.name"},
	}
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			if code, body := post(test.device, "", test.body); code != test.code || !strings.Contains(body, test.want) {
				t.Errorf("%d: %s", code, body)
			}
		})
	}
	if code, body := post("new", "dryRun=All", head+`}`); code != http.StatusCreated || strings.Contains(body, "secret") {
		t.Errorf("dry run: %d: %s", code, body)
	}
	if len(a.issued.devices) != 0 {
		t.Fatalf("issued for %v", a.issued.devices)
	}
	code, body := post("new", "", head+`}`)
	if code != http.StatusCreated {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{`"token":"id.secret.hash"`, `"server":"gateway.example.com:7443"`, `"expirationTimestamp":"2033-05-18T03:33:20Z"`, `"name":"new"`, `"namespace":"edge"`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
	if len(a.issued.devices) != 1 || a.issued.devices[0] != (gateway.Device{Namespace: "edge", Name: "new", UID: "uid-of-device"}) || a.issued.ttls[0] != time.Hour {
		t.Errorf("issued for %v, %v", a.issued.devices, a.issued.ttls)
	}
	if event := <-a.events.Events; !strings.Contains(event, "TokenIssued") || !strings.Contains(event, "admin") || strings.Contains(event, "secret") {
		t.Errorf("event %q", event)
	}
}
