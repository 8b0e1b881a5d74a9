{{/* What no single value can tell. Each message says what was given, and what is allowed. */}}
{{- define "persist-pubsub.validate" -}}
{{- $v := .Values -}}
{{- $window := index $v.settings "drain-window" -}}
{{- $timeout := index $v.settings "drain-timeout" -}}
{{- if or (not $window) (not $timeout) -}}
{{- fail "settings.drain-window and settings.drain-timeout cannot be removed: the pod's grace period is computed from them" -}}
{{- end -}}
{{- if gt (include "persist-pubsub.millis" $window | int64) (include "persist-pubsub.millis" $timeout | int64) -}}
{{- fail (printf "settings.drain-window is %s; at most settings.drain-timeout (%s) is allowed" $window $timeout) -}}
{{- end -}}
{{- include "persist-pubsub.validateBackplane" . -}}
{{- $limit := dig "limits" "memory" "" $v.resources -}}
{{- $log := index $v.settings "log-bytes-total" -}}
{{- if and $limit $log -}}
{{- $has := include "persist-pubsub.mebibytes" $limit | int64 -}}
{{- $needs := add (include "persist-pubsub.mebibytes" $log | int64) 128 -}}
{{- $queue := "" -}}
{{- if $v.backplane.urls -}}
{{- $bytes := index $v.settings "backplane-queue-bytes" | default "64MiB" -}}
{{- $needs = add $needs (include "persist-pubsub.mebibytes" $bytes | int64) -}}
{{- $queue = printf " and a queue to NATS of %s" (include "persist-pubsub.text" $bytes) -}}
{{- end -}}
{{- if and (ge $has 0) (lt $has $needs) -}}
{{- fail (printf "resources.limits.memory is %s; with settings.log-bytes-total %s%s at least %dMi is needed, or the server is killed when its logs are full" $limit $log $queue $needs) -}}
{{- end -}}
{{- end -}}
{{- if and $v.stateFile.existingClaim (not $v.stateFile.enabled) -}}
{{- fail "stateFile.existingClaim needs stateFile.enabled" -}}
{{- end -}}
{{- $tls := $v.tls -}}
{{- if $tls.enabled -}}
{{- if and $tls.existingSecret $tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled are both set; one certificate is allowed" -}}
{{- end -}}
{{- if not (or $tls.existingSecret $tls.certManager.enabled) -}}
{{- fail "tls.enabled needs a certificate: tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $tls.certManager.enabled (not $tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and $tls.allowedNames (not $tls.clientCa.secret) -}}
{{- fail "tls.allowedNames needs tls.clientCa.secret: without it no client shows a certificate" -}}
{{- end -}}
{{- else if or $tls.existingSecret $tls.certManager.enabled $tls.clientCa.secret $tls.plaintextPort $tls.admin.enabled -}}
{{- fail "a value under tls is set, but tls.enabled is false: set it to true, or remove the other" -}}
{{- end -}}
{{- if and $tls.admin.allowedNames (not $tls.admin.clientCa.secret) -}}
{{- fail "tls.admin.allowedNames needs tls.admin.clientCa.secret: without it no client shows a certificate" -}}
{{- end -}}
{{- if and $tls.admin.clientCa.secret (not $tls.admin.enabled) -}}
{{- fail "tls.admin.clientCa.secret needs tls.admin.enabled" -}}
{{- end -}}
{{- if has (int64 $tls.plaintextPort) (list (int64 $v.service.port) (int64 6880)) -}}
{{- fail (printf "tls.plaintextPort is %d, which another port of the server has" (int64 $tls.plaintextPort)) -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled are both set: every server would be counted twice" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled (not $v.adminService.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs adminService.enabled; without that Service, use metrics.podMonitor" -}}
{{- end -}}
{{- $known := list -}}
{{- range (.Files.Get "files/rules.yaml" | fromYaml).groups -}}
{{- range .rules -}}{{- $known = append $known .alert -}}{{- end -}}
{{- end -}}
{{- range $v.metrics.prometheusRule.disabled -}}
{{- if not (has . $known) -}}
{{- fail (printf "metrics.prometheusRule.disabled names %q; the alerts are %s" . (join ", " (uniq $known))) -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.clientEgress.enabled (not $v.networkPolicy.clientEgress.matchLabels) -}}
{{- fail "networkPolicy.clientEgress.enabled needs networkPolicy.clientEgress.matchLabels: without labels it would keep in every pod of the namespace" -}}
{{- end -}}
{{- end }}
