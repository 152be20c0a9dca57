// Package store keeps the record of a device's pods on its disk, so that they come back after a
// reboot without the cloud. It knows the form of the record and how to write it safely; what the
// record means is the pod manager's business.
//
// There is one file per pod and kind of record. A file is replaced as a whole (written aside, synced,
// renamed) and is sealed (package seal): pods hold secrets. One that cannot be used is renamed to
// *.corrupt and reported; it never keeps the others from being read.
package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
	"arhat.dev/aranya/pkg/edge/agent/seal"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	// maxRecord is the size in bytes of the largest record that is kept or read.
	maxRecord = 16 << 20

	podSuffix      = ".pod"
	statusSuffix   = ".status"
	deletionSuffix = ".deletion"
	corruptSuffix  = ".corrupt"

	// imagesName is the record of images, which is no pod's: see SaveImages.
	imagesName = "images.json"
)

// uidForm is what may become a file name.
var uidForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// ValidUID tells whether a pod's UID can be stored.
func ValidUID(uid string) bool { return uidForm.MatchString(uid) && !strings.Contains(uid, "..") }

// Record is all that is kept of one pod.
type Record struct {
	// Pod is the desired state; nil in a record that only finishes a deletion.
	Pod *edgeapi.RunPod
	// Status is the last one, nil if there was none or it is lost.
	Status *v1.PodStatus
	// StatusLost says that there is a status that cannot be used, or not be read for the moment.
	StatusLost bool
	// Deletion is set once the pod has to go.
	Deletion *edgeapi.DeletePod
}

// Store is a directory of records. Its methods may be called concurrently, those for one pod's UID
// one after the other.
type Store struct {
	dir string
	key *seal.Key
	mu  sync.Mutex // serializes directory syncs
}

// Open uses dir, and creates it with mode 0700 if it does not exist. Records are sealed with key.
func Open(dir string, key *seal.Key) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir, key: key}, nil
}

// SavePod keeps the desired state of a pod. It is on the disk when SavePod returns.
func (s *Store) SavePod(pod *edgeapi.RunPod) error {
	data, err := proto.Marshal(pod)
	if err != nil {
		return err
	}
	return s.save(pod.Uid, podSuffix, data, true)
}

// SaveStatus keeps the last status of a pod. With sync it is on the disk when SaveStatus returns; without, a
// crash of the machine may take it away, and the one before with it.
func (s *Store) SaveStatus(uid string, status *v1.PodStatus, sync bool) error {
	data, err := status.Marshal()
	if err != nil {
		return err
	}
	return s.save(uid, statusSuffix, data, sync)
}

// SaveDeletion keeps that a pod has to go. It is on the disk when SaveDeletion returns.
func (s *Store) SaveDeletion(deletion *edgeapi.DeletePod) error {
	data, err := proto.Marshal(deletion)
	if err != nil {
		return err
	}
	return s.save(deletion.Uid, deletionSuffix, data, true)
}

// SaveImages keeps what is known of the images on the device. It is on the disk when SaveImages returns.
func (s *Store) SaveImages(data []byte) error {
	if err := s.write(imagesName, data, true); err != nil {
		return err
	}
	return diskfile.IgnoreNotExist(os.Remove(filepath.Join(s.dir, imagesName+corruptSuffix)))
}

// LoadImages returns what SaveImages has kept; nil if there is nothing.
func (s *Store) LoadImages() ([]byte, error) {
	data, _, err := s.read(imagesName)
	return data, diskfile.IgnoreNotExist(err)
}

// Remove forgets a pod.
func (s *Store) Remove(uid string) error {
	if !ValidUID(uid) {
		return nil
	}
	var errs []error
	// The deletion last: as long as it is there, the pod has to go.
	for _, suffix := range []string{podSuffix, statusSuffix, podSuffix + corruptSuffix, statusSuffix + corruptSuffix, deletionSuffix + corruptSuffix, deletionSuffix} {
		errs = append(errs, diskfile.IgnoreNotExist(os.Remove(filepath.Join(s.dir, uid+suffix))))
	}
	return errors.Join(append(errs, s.syncDir())...)
}

// Load reads all records by UID. Files that cannot be used are set aside, each with an error, and those that
// cannot be read are left alone, as they may be good; the records are valid nevertheless. What was set aside
// before and did not come again since is told anew: the one who should know may not have heard of it. Records
// from before there was sealing are sealed.
func (s *Store) Load() (map[string]*Record, []error) {
	var errs []error
	if err := diskfile.Clean(s.dir); err != nil {
		errs = append(errs, err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, []error{err}
	}
	records := map[string]*Record{}
	for _, entry := range entries {
		name := entry.Name()
		former, aside := strings.CutSuffix(name, corruptSuffix)
		uid, suffix, ok := podRecord(former)
		if !ok {
			continue
		}
		record := records[uid]
		if record == nil {
			record = &Record{}
			records[uid] = record
		}
		if aside {
			err = fmt.Errorf("the record %s was set aside earlier and is still missing; what is left of it is in %s", former, filepath.Join(s.dir, name))
		} else {
			err = s.loadInto(record, name, uid, suffix)
		}
		errs = append(errs, err)
		record.StatusLost = record.StatusLost || suffix == statusSuffix && err != nil
	}
	for uid, record := range records {
		record.StatusLost = record.StatusLost && record.Status == nil
		if record.Pod == nil && record.Deletion == nil { // a status alone is of no use
			delete(records, uid)
		}
	}
	return records, compact(errs)
}

func (s *Store) loadInto(record *Record, name, uid, suffix string) error {
	data, plain, err := s.read(name)
	if err != nil {
		return err
	}
	if err := record.decode(uid, suffix, data); err != nil {
		return s.setAside(name, err)
	}
	if plain {
		if err := s.write(name, data, true); err != nil {
			return fmt.Errorf("the record %s is in use, but not sealed yet: %w", filepath.Join(s.dir, name), err)
		}
	}
	return nil
}

// podRecord is whose record has a name, and of which kind it is.
func podRecord(name string) (uid, suffix string, ok bool) {
	suffix = filepath.Ext(name)
	uid = strings.TrimSuffix(name, suffix)
	return uid, suffix, ValidUID(uid) && (suffix == podSuffix || suffix == statusSuffix || suffix == deletionSuffix)
}

// UIDs lists the pods of which anything is kept, usable or not.
func (s *Store) UIDs() (sets.Set[string], error) {
	entries, err := os.ReadDir(s.dir)
	uids := sets.New[string]()
	for _, entry := range entries {
		if uid, _, ok := podRecord(strings.TrimSuffix(entry.Name(), corruptSuffix)); ok {
			uids.Insert(uid)
		}
	}
	return uids, err
}

// decode fills in the part of the record that the suffix names.
func (r *Record) decode(uid, suffix string, data []byte) error {
	switch suffix {
	case podSuffix:
		pod := &edgeapi.RunPod{}
		if err := proto.Unmarshal(data, pod); err != nil {
			return err
		}
		if pod.Uid != uid {
			return fmt.Errorf("it is the record of pod %q", pod.Uid)
		}
		r.Pod = pod
	case statusSuffix:
		status := &v1.PodStatus{}
		if err := status.Unmarshal(data); err != nil {
			return err
		}
		r.Status = status
	case deletionSuffix:
		deletion := &edgeapi.DeletePod{}
		if err := proto.Unmarshal(data, deletion); err != nil {
			return err
		}
		if deletion.Uid != uid {
			return fmt.Errorf("it is the record of pod %q", deletion.Uid)
		}
		r.Deletion = deletion
	}
	return nil
}

func (s *Store) save(uid, suffix string, data []byte, sync bool) error {
	if !ValidUID(uid) {
		return fmt.Errorf("pod UID %q cannot be stored", uid)
	}
	if err := s.write(uid+suffix, data, sync); err != nil {
		return err
	}
	// What was set aside is replaced by now.
	return diskfile.IgnoreNotExist(os.Remove(filepath.Join(s.dir, uid+suffix+corruptSuffix)))
}

func (s *Store) write(name string, payload []byte, sync bool) error {
	if len(payload) > maxRecord {
		return fmt.Errorf("record %s of %d bytes is larger than %d", name, len(payload), maxRecord)
	}
	sealed, err := s.key.Seal(name, payload)
	if err != nil {
		return err
	}
	if err := diskfile.Replace(filepath.Join(s.dir, name), sealed, sync); err != nil || !sync {
		return err
	}
	return s.syncDir()
}

// syncDir makes renames and removals durable.
func (s *Store) syncDir() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return diskfile.SyncDir(s.dir)
}

// read returns the payload of a record, and whether it lay there in plain.
func (s *Store) read(name string) (payload []byte, plain bool, err error) {
	path := filepath.Join(s.dir, name)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() || info.Size() > int64(maxRecord+seal.Overhead) {
		return nil, false, s.setAside(name, fmt.Errorf("not a regular file of at most %d bytes", maxRecord))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("the record cannot be read: %w", err)
	}
	payload, err = s.key.Open(name, data)
	if errors.Is(err, seal.ErrNotSealed) {
		plain = true
		payload, err = decodePlain(data)
	}
	if err != nil {
		return nil, false, s.setAside(name, err)
	}
	return payload, plain, nil
}

// setAside renames a file that cannot be used and returns what to tell about it.
func (s *Store) setAside(name string, cause error) error {
	path := filepath.Join(s.dir, name)
	err := fmt.Errorf("the record %s cannot be used and was renamed to %s: %w", path, name+corruptSuffix, cause)
	return errors.Join(err, os.Rename(path, path+corruptSuffix))
}

func compact(errs []error) []error {
	var out []error
	for _, err := range errs {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}
