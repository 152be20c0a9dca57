package etcd

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestFullDatabaseRecoversAtStart(t *testing.T) {
	const small = 1 << 20
	value := strings.Repeat("x", 100<<10)
	for name, test := range map[string]struct {
		key   func(i int) string
		quota int64
		full  bool
	}{
		"full of old revisions":                 {key: func(int) string { return "/key" }, quota: small},
		"full of data, now with a larger quota": {key: strconv.Itoa, quota: quota},
		"full of data, and a smaller quota":     {key: strconv.Itoa, quota: small / 4, full: true},
		"full of revisions, and a larger quota": {key: func(int) string { return "/key" }, quota: quota},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "etcd")
			e := startWithQuota(t, dir, small)
			client := newClient(t, e)
			var err error
			for i := 0; err == nil; i++ {
				_, err = client.Put(timeout(t), test.key(i), value)
			}
			if !isFull(err) {
				t.Fatalf("cannot fill the database: %v", err)
			}
			_ = client.Close()
			e.Stop()

			again := newClient(t, startWithQuota(t, dir, test.quota))
			if _, err := again.Put(timeout(t), "/new", value); isFull(err) != test.full || (err != nil && !test.full) {
				t.Errorf("a write after the restart: %v, want refused %v", err, test.full)
			}
			if got, err := again.Get(timeout(t), test.key(0)); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
				t.Errorf("the data is not what it was: %v", err)
			}
		})
	}
}

func isFull(err error) bool {
	return err != nil && strings.Contains(err.Error(), "database space exceeded")
}
