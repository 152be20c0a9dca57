package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/proxy"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// testClient is a client of an API server that is served by the handler, for the namespace "edge".
func testClient(t *testing.T, apiserver http.HandlerFunc) *client {
	t.Helper()
	server := httptest.NewServer(apiserver)
	t.Cleanup(server.Close)
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	flags := genericclioptions.NewConfigFlags(false)
	flags.APIServer, flags.Namespace = ptr.To(server.URL), ptr.To("edge")
	return &client{flags: flags, IOStreams: genericiooptions.NewTestIOStreamsDiscard()}
}

func TestProxyServesOnlyItsOwnPages(t *testing.T) {
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s as %q from %q", r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Origin"))
	})
	for name, test := range map[string]struct {
		acceptHosts, host, origin string
		want                      int
	}{
		"no browser":             {host: "127.0.0.1:9000", want: http.StatusOK},
		"localhost":              {host: "localhost:9000", want: http.StatusOK},
		"IPv6":                   {host: "[::1]:9000", want: http.StatusOK},
		"IPv6, default port":     {host: "[::1]", want: http.StatusOK},
		"own page":               {host: "localhost:9000", origin: "http://localhost:9000", want: http.StatusOK},
		"name for the address":   {host: "evil.example.com:9000", want: http.StatusForbidden},
		"page under such a name": {host: "evil.example.com:9000", origin: "http://evil.example.com:9000", want: http.StatusForbidden},
		"page of another site":   {host: "127.0.0.1:9000", origin: "https://evil.example.com", want: http.StatusForbidden},
		"page of another port":   {host: "127.0.0.1:9000", origin: "http://127.0.0.1:9001", want: http.StatusForbidden},
		"page that hides itself": {host: "127.0.0.1:9000", origin: "null", want: http.StatusForbidden},
		"page of no host":        {host: "127.0.0.1:9000", origin: "http://%zz", want: http.StatusForbidden},
		"another host accepted":  {acceptHosts: "^box$", host: "box:9000", want: http.StatusOK},
		"another host than that": {acceptHosts: "^box$", host: "localhost:9000", want: http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			if test.acceptHosts == "" {
				test.acceptHosts = defaultAcceptHosts
			}
			handler, err := c.proxyHandler("http", "device-1", 8080, proxy.MakeRegexpArrayOrDie(test.acceptHosts))
			if err != nil {
				t.Fatal(err)
			}
			request := httptest.NewRequest(http.MethodGet, "http://"+test.host+"/page", nil)
			request.Header.Set("Authorization", "Basic browser")
			if test.origin != "" {
				request.Header.Set("Origin", test.origin)
			}
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request)
			response := recorder.Result()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != test.want {
				t.Fatalf("%s %q (%v), want %d", response.Status, body, err, test.want)
			}
			const path = "/apis/aranya.arhat.dev/v1alpha1/namespaces/edge/edgedevices/http:device-1:8080/proxy/page"
			if want := path + ` as "" from ""`; test.want == http.StatusOK && string(body) != want {
				t.Errorf("the API server saw %s, want %s", body, want)
			}
		})
	}
}

// Redirects, which kube-apiserver lets no server answer with, reach the browser all the same.
func TestProxyRedirects(t *testing.T) {
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		host := r.Header.Get(v1alpha1.ProxyHostHeader)
		if location := r.URL.Query().Get("to"); location != "" {
			w.Header().Set(v1alpha1.ProxyLocationHeader, strings.ReplaceAll(location, "HOST", host))
		}
		w.WriteHeader(http.StatusFound)
	})
	handler, err := c.proxyHandler("https", "device-1", 8443, proxy.MakeRegexpArrayOrDie(defaultAcceptHosts))
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"/login?a=b":            "/login?a=b",
		"login":                 "login",
		"https://HOST/login#x":  "/login#x",
		"https://example.com/x": "https://example.com/x",
		"%zz":                   "%zz", // the browser's to judge
		"":                      "",
	} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "http://127.0.0.1:9000/?to="+url.QueryEscape(to), nil))
		header := recorder.Result().Header
		if got := header.Get("Location"); recorder.Code != http.StatusFound || got != want || header.Get(v1alpha1.ProxyLocationHeader) != "" {
			t.Errorf("%q: %d to %q, want %q; %v", to, recorder.Code, got, want, header)
		}
	}
}
