package uplink

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/edge/link"
	"arhat.dev/aranya/pkg/edge/link/traffic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBackoff(t *testing.T) {
	b := backoff{max: time.Minute}
	nominal := firstBackoff
	for range 20 {
		if d := b.next(notRefused); d < nominal/2 || d > nominal {
			t.Errorf("paused %s, expected %s to %s", d, nominal/2, nominal)
		}
		nominal = min(2*nominal, time.Minute)
	}
	b.reset()
	if d := b.next(notRefused); d > firstBackoff {
		t.Errorf("paused %s after a stable link", d)
	}
	b.reset()
	for range 20 {
		if d := b.next(refused); d < refusedFactor*firstBackoff/2 || d > refusedFactor*time.Minute {
			t.Errorf("paused %s after a refusal", d)
		}
	}
	b.reset()
	if d := b.next(unwanted); d < time.Minute/2 || d > time.Minute {
		t.Errorf("paused %s after the EdgeDevice was deleted", d)
	}
	if d := b.next(unwanted); d <= time.Minute/2 || d > 2*time.Minute {
		t.Errorf("paused %s after a second refusal", d)
	}
	if d := b.next(notRefused); d > time.Minute {
		t.Errorf("paused %s once it was not refused any more", d)
	}
}

func TestRefusalOf(t *testing.T) {
	for code, want := range map[codes.Code]refusal{
		codes.PermissionDenied: unwanted, codes.Unauthenticated: refused, codes.Aborted: refused, codes.NotFound: wrongLink,
		codes.Unavailable: notRefused, codes.Canceled: notRefused, codes.Internal: notRefused,
	} {
		if err := fmt.Errorf("wrapped: %w", plain(status.Error(code, "x"))); refusalOf(err) != want {
			t.Errorf("%s: %d", code, refusalOf(err))
		}
	}
	if refusalOf(io.ErrUnexpectedEOF) != notRefused {
		t.Error("a broken link is not a refusal")
	}
}

func TestPlain(t *testing.T) {
	if err := plain(status.Error(codes.NotFound, "what it says")); err.Error() != "what it says" || status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	if plain(nil) != nil || !errors.Is(plain(io.EOF), io.EOF) {
		t.Error("other errors are not left alone")
	}
}

func TestHeartbeatBounds(t *testing.T) {
	for ms, want := range map[int64]time.Duration{0: minHeartbeat, -5: minHeartbeat, 40000: 40 * time.Second, 1 << 60: maxHeartbeat} {
		if got := heartbeat(&edgeapi.Welcome{HeartbeatIntervalMs: ms}); got != want {
			t.Errorf("%d ms: %s, expected %s", ms, got, want)
		}
	}
}

func TestNewChecks(t *testing.T) {
	if _, err := New(Config{StateDir: t.TempDir()}); err == nil {
		t.Error("no server, no handler, no error")
	}
}

// closingDialer leads nowhere, and keeps something that has to be closed.
type closingDialer struct{ dials, closed int }

func (d *closingDialer) Dial(context.Context, string) (*link.Conn, error) {
	d.dials++
	return nil, errors.New("no way")
}

func (d *closingDialer) Close() error {
	d.closed++
	return nil
}

// second is a Chooser of two links that dials the second one.
type second struct {
	Chooser
	closingDialer
}

func (s *second) Dial(ctx context.Context, address string) (*link.Conn, error) {
	_, err := s.closingDialer.Dial(ctx, address)
	return nil, &net.OpError{Op: "dial", Err: err}
}
func (*second) Dialled() string { return "mqtts://b" }

// The log says by which of several links a device could not enrol.
func TestLogNamesTheLinkOfJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := JoinOptions{Server: "a:1, mqtts://b", Dialer: &second{}}
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		if _, err := enrolPatiently(klog.NewContext(t.Context(), logger), o, identity.Token{}); err == nil {
			t.Error("enrolled")
		}
		if log := logger.GetSink().(ktesting.Underlier).GetBuffer().String(); !strings.Contains(log, `server="mqtts://b"`) || strings.Contains(log, "a:1") {
			t.Errorf("logged %s", log)
		}
	})
}

// The log says which of several links is down.
func TestLogNamesTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &Client{config: Config{Server: "a:1, mqtts://b", Dialer: &second{}, MaxBackoff: time.Minute}, ledger: &traffic.Ledger{}}
		client.id.Store(&deviceIdentity{cert: &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}})
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
		ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), logger), time.Second)
		defer cancel()
		if err := client.Run(ctx); err != nil {
			t.Error(err)
		}
		if log := logger.GetSink().(ktesting.Underlier).GetBuffer().String(); !strings.Contains(log, `server="mqtts://b"`) || strings.Contains(log, "a:1") {
			t.Errorf("logged %s", log)
		}
	})
}

func TestRunClosesTheDialer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &closingDialer{}
		client := &Client{config: Config{Dialer: d, MaxBackoff: time.Minute}, ledger: &traffic.Ledger{}}
		client.id.Store(&deviceIdentity{cert: &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := client.Run(ctx); err != nil {
			t.Error(err)
		}
		if d.dials < 2 || d.closed != 1 {
			t.Errorf("dialled %d times, closed %d times", d.dials, d.closed)
		}
	})
}
