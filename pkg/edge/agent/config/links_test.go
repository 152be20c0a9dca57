package config

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"gateway:7443":              {SchemeTCP, "gateway:7443", ""},
		"[::1]:7443":                {SchemeTCP, "[::1]:7443", ""},
		"wss://gateway":             {SchemeWebSocketTLS, "gateway:443", ""},
		"ws://gateway:8080/a/b":     {SchemeWebSocket, "gateway:8080", "/a/b"},
		"mqtt://broker":             {SchemeMQTT, "broker:1883", ""},
		"mqtts://[fd00::1]":         {SchemeMQTTTLS, "[fd00::1]:8883", ""},
		"mqtt+wss://broker:9/topic": {SchemeMQTTWSTLS, "broker:9", "/topic"},
	} {
		got, err := ParseAddress(in)
		if err != nil || got != want {
			t.Errorf("%s is %+v, error %v", in, got, err)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s", in, got)
		}
	}
	for in, want := range map[string]string{
		"gateway": "must be host:port", ":1": "the host is missing", "a:70000": "not a number",
		"http://a": "not http://", "mqtt://u:p@broker": "mqtt.passwordFile", "mqtt://broker/path": "mqtt.messageNamespace",
		"wss://": "must be", "wss://a?b": "must be", "wss://a:0": "not a number",
	} {
		if _, err := ParseAddress(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the error has the password", in)
		}
	}
}

func TestValidateLinks(t *testing.T) {
	for text, want := range map[string]string{
		"links: [a:1, b]": "links[1]: Invalid value",
		"links: [a:1,a:2,a:3,a:4,a:5,a:6,a:7,a:8,a:9]": "links: Too many",
		"mqtt: {messageNamespace: 'a/#'}":              "mqtt.messageNamespace: Invalid value",
		"mqtt: {passwordFile: /a}":                     "mqtt.username: Required value",
		"mqtt: {keepalive: 70000}":                     "mqtt.keepalive: Invalid value",
		"mqtt: {certFile: /a}":                         "mqtt.certFile: Invalid value",
		"mqtt: {caFile: a}":                            "mqtt.caFile: Invalid value",
		"mqtt: {maxPayload: 2Mi}":                      "mqtt.maxPayload: Invalid value",
		"mqtt: {maxPayload: x}":                        "mqtt.maxPayload: Invalid value",
		"websocket: {caFile: a}":                       "websocket.caFile: Invalid value",
	} {
		c, err := Parse([]byte(header+"server: a:1\n"+text), "arhat.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Finish(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	secret := &Configuration{Server: "mqtt://u:sesame@broker"}
	if err := secret.Finish(); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("an address with a password: %v", err)
	}
	c, err := Parse([]byte(header+"server: a:1\nlinks: [wss://b, mqtts://c]\nmqtt: {keepalive: 0}"), "arhat.yaml")
	if err == nil {
		err = c.Finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	if all := c.Addresses(); len(all) != 3 || all[2].String() != "mqtts://c:8883" || *c.MQTT.Keepalive != 0 {
		t.Errorf("%+v", c)
	}
}
