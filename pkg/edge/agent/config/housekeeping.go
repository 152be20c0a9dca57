package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Housekeeping is how the device keeps itself usable. The fields have the names, the form and, unless
// said otherwise, the defaults that they have in a KubeletConfiguration.
type Housekeeping struct {
	ImageMinimumGCAge           string `yaml:"imageMinimumGCAge,omitempty"`
	ImageMaximumGCAge           string `yaml:"imageMaximumGCAge,omitempty"`
	ImageGCHighThresholdPercent *int   `yaml:"imageGCHighThresholdPercent,omitempty"`
	ImageGCLowThresholdPercent  *int   `yaml:"imageGCLowThresholdPercent,omitempty"`

	ContainerLogMaxSize  string `yaml:"containerLogMaxSize,omitempty"`
	ContainerLogMaxFiles *int   `yaml:"containerLogMaxFiles,omitempty"`

	// PodPidsLimit is how many processes and threads a pod may have; -1 is as many as the device has.
	PodPidsLimit *int64 `yaml:"podPidsLimit,omitempty"`

	// EvictionHard and the others map signals such as "memory.available" to quantities or percentages.
	EvictionHard            map[string]string `yaml:"evictionHard,omitempty"`
	EvictionSoft            map[string]string `yaml:"evictionSoft,omitempty"`
	EvictionSoftGracePeriod map[string]string `yaml:"evictionSoftGracePeriod,omitempty"`
	EvictionMinimumReclaim  map[string]string `yaml:"evictionMinimumReclaim,omitempty"`

	EvictionPressureTransitionPeriod string `yaml:"evictionPressureTransitionPeriod,omitempty"`
	EvictionMaxPodGracePeriod        int    `yaml:"evictionMaxPodGracePeriod,omitempty"`
}

// evictionSignals are the signals of eviction that the agent knows.
var evictionSignals = []string{
	"imagefs.available", "imagefs.inodesFree", "memory.available", "nodefs.available", "nodefs.inodesFree", "pid.available",
}

// defaultEvictionHard are the kubelet's defaults, and one for processes, of which the kubelet has none.
var defaultEvictionHard = map[string]string{
	"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
	"imagefs.available": "15%", "imagefs.inodesFree": "5%", "pid.available": "10%",
}

// EvictionHardIsDefault tells whether the owner of the device has left hard thresholds to the agent.
func (h *Housekeeping) EvictionHardIsDefault() bool {
	return maps.Equal(h.EvictionHard, defaultEvictionHard)
}

// SoftGracePeriod is EvictionSoftGracePeriod of a signal. The configuration must be valid.
func (h *Housekeeping) SoftGracePeriod(signal string) time.Duration {
	return duration(h.EvictionSoftGracePeriod[signal])
}

// PressureTransitionPeriod is EvictionPressureTransitionPeriod.
func (h *Housekeeping) PressureTransitionPeriod() time.Duration {
	return duration(h.EvictionPressureTransitionPeriod)
}

func (h *Housekeeping) setDefaults() {
	setDefault(&h.ImageMinimumGCAge, "2m")
	setDefault(&h.ImageMaximumGCAge, "0s")
	setDefault(&h.ImageGCHighThresholdPercent, ptr.To(85))
	setDefault(&h.ImageGCLowThresholdPercent, ptr.To(80))
	setDefault(&h.ContainerLogMaxSize, "10Mi")
	setDefault(&h.ContainerLogMaxFiles, ptr.To(5))
	setDefault(&h.PodPidsLimit, ptr.To[int64](-1))
	setDefault(&h.EvictionPressureTransitionPeriod, "5m")
	if h.EvictionHard == nil {
		h.EvictionHard = maps.Clone(defaultEvictionHard)
	}
}

func (h *Housekeeping) validate() (errs field.ErrorList) {
	for name, value := range map[string]string{
		"imageMinimumGCAge": h.ImageMinimumGCAge, "imageMaximumGCAge": h.ImageMaximumGCAge,
		"evictionPressureTransitionPeriod": h.EvictionPressureTransitionPeriod,
	} {
		errs = append(errs, validateDuration(value, field.NewPath(name))...)
	}
	if h.MaximumGCAge() > 0 && h.MaximumGCAge() <= h.MinimumGCAge() {
		errs = append(errs, field.Invalid(field.NewPath("imageMaximumGCAge"), h.ImageMaximumGCAge, "must be greater than imageMinimumGCAge, or 0s for never"))
	}
	high, low := *h.ImageGCHighThresholdPercent, *h.ImageGCLowThresholdPercent
	if high < 0 || high > 100 {
		errs = append(errs, field.Invalid(field.NewPath("imageGCHighThresholdPercent"), high, "must be from 0 to 100"))
	}
	if low < 0 || low >= high {
		errs = append(errs, field.Invalid(field.NewPath("imageGCLowThresholdPercent"), low, "must be at least 0 and less than imageGCHighThresholdPercent"))
	}
	errs = append(errs, validateQuantity(h.ContainerLogMaxSize, field.NewPath("containerLogMaxSize"), 1)...)
	if *h.ContainerLogMaxFiles < 2 {
		errs = append(errs, field.Invalid(field.NewPath("containerLogMaxFiles"), *h.ContainerLogMaxFiles, "must be at least 2"))
	}
	if n := *h.PodPidsLimit; n != -1 && n < 1 {
		errs = append(errs, field.Invalid(field.NewPath("podPidsLimit"), n, "must be at least 1, or -1 for no limit"))
	}
	if h.EvictionMaxPodGracePeriod < 0 {
		errs = append(errs, field.Invalid(field.NewPath("evictionMaxPodGracePeriod"), h.EvictionMaxPodGracePeriod, "must be seconds, at least 0"))
	}
	for name, thresholds := range map[string]map[string]string{
		"evictionHard": h.EvictionHard, "evictionSoft": h.EvictionSoft, "evictionMinimumReclaim": h.EvictionMinimumReclaim,
	} {
		for signal, value := range thresholds {
			at := field.NewPath(name).Key(signal)
			errs = append(errs, validateSignal(signal, at)...)
			if _, err := ParseThreshold(value); err != nil {
				errs = append(errs, field.Invalid(at, value, err.Error()))
			}
		}
	}
	for signal, value := range h.EvictionSoftGracePeriod {
		at := field.NewPath("evictionSoftGracePeriod").Key(signal)
		errs = append(errs, validateSignal(signal, at)...)
		errs = append(errs, validateDuration(value, at)...)
	}
	for signal := range h.EvictionSoft {
		if h.EvictionSoftGracePeriod[signal] == "" {
			errs = append(errs, field.Required(field.NewPath("evictionSoftGracePeriod").Key(signal), "evictionSoft needs a grace period for each of its signals"))
		}
	}
	return errs
}

func validateSignal(signal string, at *field.Path) field.ErrorList {
	if !slices.Contains(evictionSignals, signal) {
		return field.ErrorList{field.NotSupported(at, signal, evictionSignals)}
	}
	return nil
}

func validateDuration(value string, at *field.Path) field.ErrorList {
	if d, err := time.ParseDuration(value); err != nil || d < 0 {
		return field.ErrorList{field.Invalid(at, value, "must be a duration such as \"90s\" or \"2m\"")}
	}
	return nil
}

// Threshold is an amount: bytes or a number, or a part of the whole.
type Threshold struct {
	Value    int64
	Fraction float64 // if Value is 0
}

// Of is the threshold in numbers where the whole is known.
func (t Threshold) Of(capacity uint64) uint64 {
	if t.Value > 0 {
		return uint64(t.Value)
	}
	return uint64(t.Fraction * float64(capacity))
}

// ParseThreshold reads a quantity such as "100Mi" or a percentage such as "10%".
func ParseThreshold(text string) (Threshold, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || percent < 0 || percent > 100 || math.IsNaN(percent) {
			return Threshold{}, fmt.Errorf("must be a percentage from 0%% to 100%%")
		}
		return Threshold{Fraction: percent / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 {
		return Threshold{}, fmt.Errorf("must be a quantity such as \"100Mi\" or a percentage such as \"10%%\"")
	}
	return Threshold{Value: q.Value()}, nil
}
