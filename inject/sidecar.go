package inject

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	proxyID       = 1337
	readinessPort = 15021
	metricsPort   = 15090
	dnsPort       = 15053 // Istio's

	tokenVolume = "seine-token"
	rootsVolume = "seine-roots"
	tokenDir    = "/var/run/secrets/tokens"
	rootsDir    = "/var/run/secrets/seine"
	program     = "/seine-proxy"

	// tokenSeconds is how long a token lives; the kubelet renews it at 80 %.
	tokenSeconds = 43_200

	// The environment of seine-proxy: packages apphealth and appmetrics.
	envProbes  = "SEINE_KUBE_APP_PROBERS"
	envMetrics = "SEINE_APP_METRICS"
)

// proxy is the sidecar.
func (s *settings) proxy(pod *corev1.Pod, probes map[string]*probe, place *metricsPlace) (corev1.Container, error) {
	args := []string{
		"--workload=$(POD_NAMESPACE)/$(POD_NAME)", "--service-account=$(SERVICE_ACCOUNT)",
		"--control=" + s.Control, "--ca-bundle=" + rootsDir + "/root-cert.pem", "--token=" + tokenDir + "/seine-token",
		"--outbound=[::]:15001", "--inbound=[::]:15006", "--status=:" + strconv.Itoa(int(s.StatusPort)),
		"--readiness=:" + strconv.Itoa(readinessPort), "--metrics=:" + strconv.Itoa(metricsPort),
		// No capability for a mark: the rules know the sidecar by its uid.
		"--mark=0", "--prove-redirect",
	}
	if s.TrustDomain != "" && s.TrustDomain != "cluster.local" {
		args = append(args, "--trust-domain="+s.TrustDomain)
	}
	if s.Concurrency > 0 {
		args = append(args, "--loops="+strconv.Itoa(int(s.Concurrency)))
	}
	drain := s.DrainDuration.Duration
	if s.native && !s.explicitTime {
		// The kubelet ends a native sidecar after the application: nobody is
		// left to be served.
		drain = 0
	}
	args = append(args, "--drain="+drain.String(), "--drain-limit="+s.DrainLimit.Duration.String())
	if !s.native {
		// The kubelet does not end it after a Job's work; the work can.
		args = append(args, "--quit")
	}
	if s.DNSCapture {
		args = append(args, "--dns="+strconv.Itoa(dnsPort))
	}
	if s.AccessLog != "" {
		args = append(args, "--access-log="+s.AccessLog)
	}
	if s.LogLevel != "" && s.LogLevel != "INFO" {
		args = append(args, "--log-level="+s.LogLevel)
	}
	env := []corev1.EnvVar{
		field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
		field("SERVICE_ACCOUNT", "spec.serviceAccountName"), field("POD_IP", "status.podIP"),
	}
	if m, ok := s.Resources.Limits[corev1.ResourceMemory]; ok {
		// The collector works harder before the kernel ends the process.
		env = append(env, corev1.EnvVar{Name: "GOMEMLIMIT", Value: strconv.FormatInt(m.Value()/10*9, 10)})
	}
	for _, e := range [...]struct {
		name  string
		value any
		empty bool
	}{{envProbes, probes, len(probes) == 0}, {envMetrics, place, place == nil}} {
		if e.empty {
			continue
		}
		b, err := json.Marshal(e.value)
		if err != nil {
			return corev1.Container{}, fmt.Errorf("inject: %s: %w", e.name, err)
		}
		env = append(env, corev1.EnvVar{Name: e.name, Value: dollars(string(b))})
	}
	c := corev1.Container{
		Name: ProxyName, Image: s.Image, ImagePullPolicy: s.ImagePullPolicy, Args: args, Env: env,
		Ports:     []corev1.ContainerPort{{Name: "http-seine-prom", ContainerPort: metricsPort, Protocol: corev1.ProtocolTCP}},
		Resources: s.Resources,
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: ptr(int64(proxyID)), RunAsGroup: ptr(int64(proxyID)), RunAsNonRoot: ptr(true),
			ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false), Privileged: ptr(false),
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		ReadinessProbe: &corev1.Probe{
			ProbeHandler: ready(), TimeoutSeconds: 3,
			InitialDelaySeconds: s.probe.initialDelay, PeriodSeconds: s.probe.period, FailureThreshold: s.probe.threshold,
		},
		VolumeMounts: append([]corev1.VolumeMount{
			{Name: tokenVolume, MountPath: tokenDir, ReadOnly: true},
			{Name: rootsVolume, MountPath: rootsDir, ReadOnly: true},
		}, s.mounts...),
	}
	if s.native || s.HoldApplicationUntilProxyStarts {
		// Ten minutes for the control plane to come up, as Istio has it.
		c.StartupProbe = &corev1.Probe{ProbeHandler: ready(), TimeoutSeconds: 3, PeriodSeconds: 1, FailureThreshold: 600}
	}
	switch {
	case s.native:
		c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	case s.HoldApplicationUntilProxyStarts:
		// Containers are started in order, each after the hook of the one before.
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
			Exec: &corev1.ExecAction{Command: []string{program, "wait", "--timeout=" + time.Minute.String()}},
		}}
	}
	return c, nil
}

func ready() corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(readinessPort), Scheme: corev1.URISchemeHTTP}}
}

// init is the container that writes the redirect rules and ends.
func (s *settings) init() corev1.Container {
	return corev1.Container{
		Name: InitName, Image: s.Image, ImagePullPolicy: s.ImagePullPolicy,
		Args: append([]string{"redirect"}, s.redirect...), Resources: s.InitResources,
		SecurityContext: &corev1.SecurityContext{
			// A capability that is added reaches the process of root alone.
			RunAsUser: ptr(int64(0)), RunAsGroup: ptr(int64(0)), RunAsNonRoot: ptr(false),
			ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false), Privileged: ptr(false),
			Capabilities:   &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// own are the volumes that every sidecar has.
func (s *settings) own() []corev1.Volume {
	return []corev1.Volume{
		{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: s.Audience, ExpirationSeconds: ptr(int64(tokenSeconds)), Path: "seine-token"}},
		}}}},
		{Name: rootsVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: s.RootsConfigMap},
		}}},
	}
}

// pullSecrets are those that the pod does not name itself.
func (s *settings) pullSecrets(pod *corev1.Pod) []corev1.LocalObjectReference {
	var out []corev1.LocalObjectReference
next:
	for _, name := range s.ImagePullSecrets {
		for _, have := range pod.Spec.ImagePullSecrets {
			if have.Name == name {
				continue next
			}
		}
		out = append(out, corev1.LocalObjectReference{Name: name})
	}
	return out
}

func field(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func ptr[T any](v T) *T { return &v }
