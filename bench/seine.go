package main

import (
	"context"
	"fmt"
	"time"
)

func startSeine(ctx context.Context, e *env) (*pair, error) {
	return nil, fmt.Errorf("seine-proxy: %w", errMissing)
}

// profile takes a CPU profile of seine-proxy while a case runs.
func (m *meter) profile(ctx context.Context, name string, length time.Duration) (wait func()) {
	return func() {}
}
