package simulate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"arhat.dev/aranya/hack/simulator/fleet"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/edge/agent/config"
	"arhat.dev/aranya/pkg/edge/identity"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
)

// cleanupTime bounds the deletion of what was created.
const cleanupTime = 5 * time.Minute

// createTime bounds the creation of one EdgeDevice.
const createTime = 10 * time.Second

// simulation is devices that come up, or run.
type simulation struct {
	options Options
	client  versioned.Interface // nil with tokens
	fleet   *fleet.Fleet
	started atomic.Int64

	mu      sync.Mutex
	configs map[string]*config.Configuration
	created []string // EdgeDevices
}

// Run runs devices until ctx ends. The devices then stop, and the EdgeDevices that were created are
// deleted, unless they are to be kept.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.Validate(); err != nil {
		return err
	}
	s := &simulation{options: o, configs: map[string]*config.Configuration{}}
	if o.Cluster != nil {
		c := rest.CopyConfig(o.Cluster)
		c.QPS = -1 // kube-apiserver has priority and fairness
		if s.client, err = versioned.NewForConfig(c); err != nil {
			return err
		}
	}
	if s.fleet, err = fleet.New(fleet.Options{Dir: o.Dir, Runtime: o.Runtime, Configure: s.configure}); err != nil {
		return err
	}
	telling, quiet := context.WithCancel(ctx)
	var teller sync.WaitGroup
	teller.Go(func() { s.tell(telling) })
	defer teller.Wait()
	defer quiet()
	err = s.start(ctx)
	if err == nil {
		<-ctx.Done()
	} else if ctx.Err() != nil {
		err = nil // told to stop
	}
	return errors.Join(err, s.fleet.Close(), s.cleanup(context.WithoutCancel(ctx)))
}

// configure implements fleet.Options.
func (s *simulation) configure(name string) *config.Configuration {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := *s.configs[name]
	return &c
}

// start brings all devices up.
func (s *simulation) start(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.options.Workers)
	begin := time.Now()
	for i := range max(s.options.Devices, len(s.options.Tokens)) {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error { return s.device(ctx, groupCtx, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	s.print("All %d devices were enrolled in %s, %.1f/s.", s.started.Load(), took.Round(time.Millisecond), float64(s.started.Load())/took.Seconds())
	return nil
}

// device brings one device up, which then runs until ctx ends.
func (s *simulation) device(ctx, startCtx context.Context, i int) error {
	var name, token, server string
	var err error
	if len(s.options.Tokens) > 0 {
		token = s.options.Tokens[i]
		t, err := identity.ParseToken(token)
		if err != nil {
			return fmt.Errorf("token %d: %w", i+1, err)
		}
		name = t.Name
	} else {
		name = s.options.name(i)
		if token, server, err = s.register(startCtx, name); err != nil {
			return err
		}
	}
	c, err := s.options.agent(name, server)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.configs[name] = c
	s.mu.Unlock()
	if err := s.fleet.Enrol(startCtx, name, token); err != nil {
		return err
	}
	s.started.Add(1)
	return s.fleet.Start(ctx, name)
}

// register creates an EdgeDevice, if it does not exist, and a token for it.
func (s *simulation) register(ctx context.Context, name string) (token, server string, err error) {
	ed, err := s.options.edgeDevice(name)
	if err != nil {
		return "", "", err
	}
	client := s.client.AranyaV1alpha1().EdgeDevices(s.options.Namespace)
	// To its end even if ctx ends: it must be known whether to delete it.
	createCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTime)
	defer cancel()
	switch _, err := client.Create(createCtx, ed, metav1.CreateOptions{}); {
	case err == nil:
		s.mu.Lock()
		s.created = append(s.created, name)
		s.mu.Unlock()
	case !apierrors.IsAlreadyExists(err):
		return "", "", fmt.Errorf("create EdgeDevice %s: %w", name, err)
	}
	t, err := client.CreateToken(ctx, name, &v1alpha1.EnrollmentToken{}, metav1.CreateOptions{})
	if err != nil {
		return "", "", fmt.Errorf("token of EdgeDevice %s: %w", name, err)
	}
	return t.Status.Token, t.Status.Server, nil
}

// cleanup deletes the EdgeDevices that were created here.
func (s *simulation) cleanup(ctx context.Context) error {
	s.mu.Lock()
	created := s.created
	s.mu.Unlock()
	if s.options.Keep || len(created) == 0 {
		return nil
	}
	s.print("Deleting %d EdgeDevices.", len(created))
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	var group errgroup.Group // one that fails does not keep the others from being deleted
	var failed atomic.Int64
	group.SetLimit(s.options.Workers)
	for _, name := range created {
		group.Go(func() error {
			err := s.client.AranyaV1alpha1().EdgeDevices(s.options.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				failed.Add(1)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("%d of %d EdgeDevices could not be deleted, the first because of: %w", failed.Load(), len(created), err)
	}
	return nil
}

// tell says from time to time how the devices are.
func (s *simulation) tell(ctx context.Context) {
	ticker := time.NewTicker(s.options.Period)
	defer ticker.Stop()
	sent, received := s.fleet.Bytes()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		nowSent, nowReceived := s.fleet.Bytes()
		links := s.fleet.Links()
		per := s.options.Period.Seconds() * float64(max(links, 1))
		s.print("enrolled %d, connected %d, pods %d, to each device %.1f B/s, from each %.1f B/s",
			s.started.Load(), links, s.fleet.Pods(), float64(nowReceived-received)/per, float64(nowSent-sent)/per)
		sent, received = nowSent, nowReceived
	}
}

func (s *simulation) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.options.Out, format+"\n", args...)
}
