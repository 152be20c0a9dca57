package mqtt

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// stream is a connection from which a given stream of bytes comes.
type stream struct {
	net.Conn
	r io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.r.Read(p) }

func publishPacket(t testing.TB, payload []byte) []byte {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Qos, p.MessageID, p.Payload = "a/b", 1, 7, payload
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGuard(t *testing.T) {
	const limit = 1000
	small, large := bytes.Repeat([]byte("s"), limit), bytes.Repeat([]byte("l"), 3<<20)
	in := append(publishPacket(t, small), publishPacket(t, large)...)
	in = append(in, publishPacket(t, small)...)
	in = append(in, packets.Puback<<4, 2, 0, 1, packets.Suback<<4, 3, 0, 1, 1)
	g := newGuard(stream{r: bytes.NewReader(in)}, limit)
	for i, want := range []int{len(small), 0, len(small)} {
		cp, err := packets.ReadPacket(g)
		if err != nil {
			t.Fatal(err)
		}
		p := cp.(*packets.PublishPacket)
		if p.MessageID != 7 || p.TopicName != "a/b" {
			t.Errorf("packet %d is %v", i, p)
		}
		if want != 0 && len(p.Payload) != want {
			t.Errorf("packet %d has %d bytes", i, len(p.Payload))
		}
		if want == 0 && (len(p.Payload) <= limit || len(p.Payload) > limit+maxTopic+1) {
			t.Errorf("the large packet has %d bytes: not to be told from a good one, or too much", len(p.Payload))
		}
	}
	for range 2 {
		if _, err := packets.ReadPacket(g); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := packets.ReadPacket(g); err == nil {
		t.Error("a packet where there is none")
	}
}

func TestGuardRefuses(t *testing.T) {
	for name, in := range map[string][]byte{
		"SUBACK of more than was asked for": {packets.Suback << 4, 5, 0, 1, 1, 1, 1},
		"large CONNACK":                     {packets.Connack << 4, 0xff, 0xff, 0xff, 0x7f},
		"endless length":                    {packets.Publish << 4, 0xff, 0xff, 0xff, 0xff, 0x01},
	} {
		if _, err := packets.ReadPacket(newGuard(stream{r: bytes.NewReader(in)}, 100)); err == nil || !strings.Contains(err.Error(), "against MQTT") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzGuard: whatever a broker sends, the library gets no packet that is too large, and does not panic.
func FuzzGuard(f *testing.F) {
	f.Add(publishPacket(f, []byte("hello")))
	f.Add(publishPacket(f, bytes.Repeat([]byte("x"), 100_000)))
	f.Add([]byte{packets.Suback << 4, 3, 0, 1, 0x80, packets.Pingresp << 4, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		g := newGuard(stream{r: bytes.NewReader(in)}, 256)
		for {
			cp, err := packets.ReadPacket(g)
			if err != nil {
				return
			}
			if p, ok := cp.(*packets.PublishPacket); ok && len(p.Payload) > g.limit {
				t.Fatalf("a payload of %d bytes", len(p.Payload))
			}
		}
	})
}
