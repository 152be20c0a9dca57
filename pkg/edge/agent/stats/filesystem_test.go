package stats

import (
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLayersApart(t *testing.T) {
	at := func(path string) []*runtimeapi.FilesystemUsage {
		return []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: path}}}
	}
	const other = "/proc" // a file system that no test has its files in
	same := t.TempDir()
	for name, tt := range map[string]struct {
		info *runtimeapi.ImageFsInfoResponse // nil: the runtime does not tell
		want bool
	}{
		"not told":                   {},
		"none":                       {info: &runtimeapi.ImageFsInfoResponse{}},
		"images beside":              {info: &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(same)}},
		"images elsewhere":           {info: &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(other)}, want: true},
		"only images elsewhere":      {info: &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(other), ContainerFilesystems: at(same)}},
		"both elsewhere":             {info: &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(other), ContainerFilesystems: at(other)}, want: true},
		"somewhere that is not here": {info: &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(same + "/absent")}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := newCollector(t, &fakeRuntime{imageFs: tt.info})
			if got := c.LayersApart(t.Context()); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestSameFileSystem(t *testing.T) {
	const ext4 = unix.EXT4_SUPER_MAGIC
	for name, tt := range map[string]struct {
		a, b fsID
		want bool
	}{
		"one":                     {fsID{1, ext4, 7}, fsID{1, ext4, 7}, true},
		"two":                     {fsID{1, ext4, 7}, fsID{2, ext4, 7}, false},
		"subvolumes of one btrfs": {fsID{1, unix.BTRFS_SUPER_MAGIC, 7}, fsID{2, unix.BTRFS_SUPER_MAGIC, 7}, true},
		"two btrfs":               {fsID{1, unix.BTRFS_SUPER_MAGIC, 7}, fsID{2, unix.BTRFS_SUPER_MAGIC, 8}, false},
		"a btrfs and another":     {fsID{1, unix.BTRFS_SUPER_MAGIC, 7}, fsID{2, ext4, 7}, false},
	} {
		if got := tt.a.same(tt.b); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
