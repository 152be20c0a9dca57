package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/klog/v2"
)

// reclaimSpace ends the alarm that etcd raised when the database reached its quota, and by which it refuses
// writes until somebody ends it, however large the quota is now. As administrators do with etcdctl, it gives the
// space of old revisions back before that: etcd raises the alarm anew if that was not enough.
func (e *Embedded) reclaimSpace(ctx context.Context) error {
	for _, alarm := range e.etcd.Server.Alarms() {
		if alarm.Alarm.String() == "NOSPACE" { // and not that the data is corrupt
			return e.endNoSpace(ctx, (*clientv3.AlarmMember)(alarm))
		}
	}
	return nil
}

func (e *Embedded) endNoSpace(ctx context.Context, alarm *clientv3.AlarmMember) error {
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{e.endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	server := e.etcd.Server
	before := server.Backend().Size()
	if kv := server.KV(); kv.FirstRev() < kv.Rev() { // not compacted up to there yet
		if _, err := client.Compact(ctx, kv.Rev(), clientv3.WithCompactPhysical()); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
	}
	if _, err := client.Defragment(ctx, e.endpoint); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	if _, err := client.AlarmDisarm(ctx, alarm); err != nil {
		return fmt.Errorf("disarm the alarm: %w", err)
	}
	klog.FromContext(ctx).Info("The embedded etcd had reached its quota; compacted and defragmented it",
		"bytesBefore", before, "bytesAfter", server.Backend().Size())
	return nil
}
