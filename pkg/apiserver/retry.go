package apiserver

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// startupPatience is how long a start waits for the main cluster, and for an etcd of one's own: longer than
// these take to start, short enough for a supervisor to notice.
const startupPatience = 90 * time.Second

// retry calls f until it succeeds. It gives up after a while, with f's last error, so that a start that
// cannot succeed ends with the reason instead of hanging.
func retry(ctx context.Context, what string, f func(context.Context) error) error {
	logger := klog.FromContext(ctx)
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, startupPatience, true, func(ctx context.Context) (bool, error) {
		err := f(ctx)
		if err == nil {
			return true, nil
		}
		if last == nil || (ctx.Err() == nil && last.Error() != err.Error()) {
			last = err
			logger.Info("Not ready to start yet; trying again", "waitingFor", what, "patience", startupPatience, "err", err)
		}
		return false, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%s: %w", what, last)
	}
	return err
}
