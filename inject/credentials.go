package inject

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// credentialsDir is where the sidecar has Secrets, a folder for each: the same as
// mesh.CredentialsDir.
const credentialsDir = "/etc/seine/credentials"

const maxCredentials = 32

// credentials are the Secrets of the pod's own namespace that its sidecar may
// have, "payments-client,audit": for a DestinationRule's credentialName. They are
// mounted into the sidecar alone; the kubelet brings and renews them. One that
// does not exist yet keeps the pod from nothing.
func (s *settings) credentials(v string) error {
	var names []string
	for _, name := range strings.Split(v, ",") {
		name = strings.TrimSpace(name)
		if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
			return fmt.Errorf("%.80q is not a Secret's name", name)
		}
		if slices.Contains(names, name) {
			continue
		}
		if len(names) == maxCredentials {
			return fmt.Errorf("names more than %d Secrets", maxCredentials)
		}
		volume := "seine-credential-" + strconv.Itoa(len(names))
		names = append(names, name)
		s.volumes = append(s.volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: name, Optional: ptr(true)},
		}})
		s.mounts = append(s.mounts, corev1.VolumeMount{Name: volume, MountPath: credentialsDir + "/" + name, ReadOnly: true})
	}
	return nil
}
