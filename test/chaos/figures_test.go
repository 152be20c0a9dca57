package chaos_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"arhat.dev/aranya/hack/bench/measure"
)

// figures are what the trial has measured.
type figures struct {
	rounds  int
	faults  map[string]int
	offline int
	// recoveries without and with the cloud, from the start of the agent until every pod was back.
	alone, linked measure.Samples
	// reconnects, from the link's return until the cluster showed the truth.
	reconnects measure.Samples
	// Restarts of healthy containers: by a fault that should have left them alone, and on reconnect.
	restartedByFault, restartedOnReconnect int
	// Of pods that have ended. One that is lost or runs twice fails its round.
	runAgain, deletedMeanwhile int
}

func (f *figures) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds, %d of them without the cloud\n", f.rounds, f.offline)
	for _, name := range slices.Sorted(maps.Keys(f.faults)) {
		fmt.Fprintf(&b, "  %-34s %d\n", name, f.faults[name])
	}
	row(&b, "every pod back, without the cloud", &f.alone)
	row(&b, "every pod back, with the cloud", &f.linked)
	row(&b, "cluster shows the truth after that", &f.reconnects)
	fmt.Fprintf(&b, "restarts of healthy containers: %d by faults of others, %d on reconnect\n", f.restartedByFault, f.restartedOnReconnect)
	fmt.Fprintf(&b, "pods that had ended and have run again: %d; removed because deleted meanwhile: %d\n", f.runAgain, f.deletedMeanwhile)
	return b.String()
}

func row(b *strings.Builder, what string, times *measure.Samples) {
	if times.Len() == 0 {
		return
	}
	at := func(q float64) time.Duration { return times.Quantile(q).Round(10 * time.Millisecond) }
	fmt.Fprintf(b, "%-36s min %s, median %s, p99 %s, max %s (%d)\n", what, at(0), at(0.5), at(0.99), at(1), times.Len())
}
