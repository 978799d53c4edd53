package host

import (
	"errors"
	"syscall"
)

// notOffered reports whether reading a pressure file failed because PSI is
// switched off (psi=0 on the kernel's command line).
func notOffered(err error) bool { return errors.Is(err, syscall.EOPNOTSUPP) }
