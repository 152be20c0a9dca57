package seal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func newKey(t testing.TB, fill byte) *Key {
	t.Helper()
	k, err := New(bytes.Repeat([]byte{fill}, MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSeal(t testing.TB, k *Key, name, plain string) []byte {
	t.Helper()
	sealed, err := k.Seal(name, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSealAndOpen(t *testing.T) {
	k := newKey(t, 1)
	for _, plain := range []string{"", "s3cret", string(make([]byte, 1<<20))} {
		sealed := mustSeal(t, k, "a.pod", plain)
		if len(sealed) != len(plain)+Overhead {
			t.Errorf("%d bytes became %d", len(plain), len(sealed))
		}
		if plain == "s3cret" && bytes.Contains(sealed, []byte(plain)) {
			t.Error("the record can be read")
		}
		got, err := k.Open("a.pod", sealed)
		if err != nil || string(got) != plain {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	if bytes.Equal(mustSeal(t, k, "a", "x"), mustSeal(t, k, "a", "x")) {
		t.Error("the same record looks the same twice")
	}
}

func TestOpenRefuses(t *testing.T) {
	k := newKey(t, 1)
	sealed := mustSeal(t, k, "a.pod", "s3cret")
	for _, test := range []struct {
		what string
		key  *Key
		name string
		data []byte
		want error
	}{
		{"nothing", k, "a.pod", nil, ErrNotSealed},
		{"a plain record", k, "a.pod", []byte("arhat/1\nhello"), ErrNotSealed},
		{"cut off", k, "a.pod", sealed[:Overhead-1], ErrAltered},
		{"cut off by one", k, "a.pod", sealed[:len(sealed)-1], ErrAltered},
		{"longer", k, "a.pod", append(bytes.Clone(sealed), 0), ErrAltered},
		{"another record's", k, "b.pod", sealed, ErrAltered},
		{"another device's", newKey(t, 2), "a.pod", sealed, ErrOtherKey},
	} {
		if got, err := test.key.Open(test.name, test.data); !errors.Is(err, test.want) || got != nil {
			t.Errorf("%s: got %q, %v; want %v", test.what, got, err, test.want)
		}
	}
	for i := range sealed { // every byte counts
		altered := bytes.Clone(sealed)
		altered[i] ^= 0x40
		if _, err := k.Open("a.pod", altered); err == nil {
			t.Errorf("a change of byte %d is not noticed", i)
		}
	}
}

func TestSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	k, lost, err := LoadOrCreate(path)
	if err != nil || lost != nil {
		t.Fatal(lost, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() != MinSecret {
		t.Errorf("got %v, %v", info, err)
	}
	again, lost, err := LoadOrCreate(path)
	if err != nil || lost != nil || again.id != k.id {
		t.Errorf("the second time: %v, %v", lost, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, lost, err := LoadOrCreate(path)
	if err != nil || lost == nil || other.id == k.id {
		t.Errorf("a damaged file: %v, %v", lost, err)
	}
	if data, err := os.ReadFile(path + ".corrupt"); err != nil || string(data) != "short" {
		t.Errorf("set aside: %q, %v", data, err)
	}
}

// TestSecretFileUnread has an agent that cannot read a good secret for a while.
func TestSecretFileUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	k, _, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, lost, err := LoadOrCreate(path)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || lost != nil {
		t.Errorf("unread: %v, %v", lost, err)
	}
	again, lost, err := LoadOrCreate(path)
	if err != nil || lost != nil || again.id != k.id {
		t.Errorf("afterwards: %v, %v", lost, err)
	}
}

func TestProvidedSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := Load(write("good", 48, 0o440)); err != nil {
		t.Error(err)
	}
	for what, path := range map[string]string{
		"missing":             filepath.Join(dir, "missing"),
		"too short":           write("short", MinSecret-1, 0o400),
		"too long":            write("long", maxSecret+1, 0o400),
		"readable for others": write("open", 48, 0o444),
		"a directory":         dir,
	} {
		if _, err := Load(path); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f, 1)
	f.Add("a.pod", mustSeal(f, k, "a.pod", "plain"))
	f.Add("a.pod", []byte(magic))
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		plain, err := k.Open(name, data)
		if err == nil && len(plain)+Overhead != len(data) {
			t.Errorf("%d bytes opened to %d", len(data), len(plain))
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, plain := newKey(b, 1), make([]byte, 16<<10)
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		if _, err := k.Seal("a.pod", plain); err != nil {
			b.Fatal(err)
		}
	}
}
