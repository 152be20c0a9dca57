package target

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/gateway"
)

const (
	// maxSummary bounds the answer of a device: a pod of two containers takes about 4 KiB, and a
	// device runs 1000 pods at most.
	maxSummary = 8 << 20
	// statsTimeout is how long a device may take to answer.
	statsTimeout = 30 * time.Second
)

// Stats asks the device for the resource usage of itself and its pods.
func Stats(ctx context.Context, session gateway.Session, onlyCPUAndMemory bool) (*stats.Summary, error) {
	ctx, cancel := withTimeout(ctx, session, statsTimeout, "sent no complete statistics")
	defer cancel()
	r, err := output(ctx, session, &edgeapi.OpenStream{Request: &edgeapi.OpenStream_Stats{
		Stats: &edgeapi.Stats{OnlyCpuAndMemory: onlyCPUAndMemory},
	}})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxSummary+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSummary {
		return nil, apierrors.NewInternalError(fmt.Errorf("EdgeDevice %s sent more than %d bytes of statistics", session.Device(), maxSummary))
	}
	summary := &stats.Summary{}
	if err := json.Unmarshal(data, summary); err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("EdgeDevice %s sent statistics that cannot be read: %w", session.Device(), err))
	}
	return summary, nil
}
