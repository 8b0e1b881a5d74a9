{{- define "persist-pubsub.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that -headless and -admin still fit into 63. */}}
{{- define "persist-pubsub.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that select the servers' pods. Never change: a Deployment's selector cannot. */}}
{{- define "persist-pubsub.selectorLabels" -}}
app.kubernetes.io/name: {{ include "persist-pubsub.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "persist-pubsub.labels" -}}
app.kubernetes.io/name: {{ include "persist-pubsub.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "persist-pubsub.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "persist-pubsub.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "persist-pubsub.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* A setting as the command line has it: YAML's whole numbers arrive as floats, which print as 1e+06. */}}
{{- define "persist-pubsub.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* Milliseconds of "1m 30s". */}}
{{- define "persist-pubsub.millis" -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+ ?(ms|s|m|h)" . -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $factors (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end }}

{{/* Mebibytes of "64MiB", "512Mi", "1Gi" or a number; -1 of what is written otherwise. */}}
{{- define "persist-pubsub.mebibytes" -}}
{{- $text := include "persist-pubsub.text" . -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $unit := trimPrefix (regexFind "^[0-9]+" $text) $text -}}
{{- if eq $unit "" -}}{{ div $number 1048576 }}
{{- else if has $unit (list "Ki" "KiB") -}}{{ div $number 1024 }}
{{- else if has $unit (list "Mi" "MiB") -}}{{ $number }}
{{- else if has $unit (list "Gi" "GiB") -}}{{ mul $number 1024 }}
{{- else -}}-1
{{- end -}}
{{- end }}

{{/* The pod outlives the drain's hard deadline, the second in which connections close, and a margin. */}}
{{- define "persist-pubsub.gracePeriod" -}}
{{- add (include "persist-pubsub.minReady" . | int64) (int64 .Values.terminationGraceMarginSeconds) -}}
{{- end }}

{{/*
How long a new replica is ready before the next old one is told to go: until the
one before has gone, however long its drain takes. So never two of a rollout
drain at once, and what only the log of one holds can be asked for until its
last session has moved.
*/}}
{{- define "persist-pubsub.minReady" -}}
{{- $drain := include "persist-pubsub.millis" (index .Values.settings "drain-timeout") | int64 -}}
{{- add (div (add $drain 999) 1000) 1 -}}
{{- end }}

{{- define "persist-pubsub.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{ include "persist-pubsub.fullname" . }}-tls
{{- else -}}
{{ .Values.tls.existingSecret }}
{{- end -}}
{{- end }}

{{/* The name that clients inside the cluster call. */}}
{{- define "persist-pubsub.host" -}}
{{ include "persist-pubsub.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "persist-pubsub.url" -}}
{{ ternary "https" "http" .Values.tls.enabled }}://{{ include "persist-pubsub.host" . }}:{{ .Values.service.port }}
{{- end }}

{{/*
What a probe asks: (dict "root" $ "service" name "path" path). A kubelet's gRPC
probe has no TLS, and none of its probes has a client certificate: what is left
then is whether the port takes connections.
*/}}
{{- define "persist-pubsub.probe" -}}
{{- $tls := .root.Values.tls -}}
{{- $live := eq .service "live" -}}
{{- $ports := list -}}
{{- if not $live -}}
{{- $ports = append $ports (ternary $tls.plaintextPort 6879 $tls.enabled) -}}
{{- end -}}
{{- if not $tls.admin.enabled -}}
{{- $ports = append $ports 6880 -}}
{{- else if $tls.admin.clientCa.secret -}}
{{- $ports = append $ports $tls.plaintextPort -}}
{{- end -}}
{{- $plain := without $ports 0 0.0 | first -}}
{{- if $plain -}}
grpc:
  port: {{ $plain }}
  service: {{ .service | quote }}
{{- else if $tls.admin.clientCa.secret -}}
tcpSocket:
  port: {{ ternary "admin" "grpc" $live }}
{{- else -}}
httpGet:
  port: admin
  scheme: HTTPS
  path: {{ .path }}
{{- end -}}
{{- end }}

{{/* Labels of a monitoring object: (list $ further). */}}
{{- define "persist-pubsub.monitorLabels" -}}
{{- $labels := include "persist-pubsub.labels" (index . 0) | fromYaml -}}
{{- toYaml (merge (deepCopy (index . 1)) $labels) -}}
{{- end }}

{{/* One endpoint of a ServiceMonitor or PodMonitor: (list $ monitor). */}}
{{- define "persist-pubsub.endpoint" -}}
{{- $root := index . 0 }}{{ $monitor := index . 1 -}}
port: admin
path: /metrics
interval: {{ $monitor.interval }}
{{- if $root.Values.tls.admin.enabled }}
scheme: https
{{- with $monitor.tlsConfig }}
tlsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Ports of a Service of the data port: (list $ port). */}}
{{- define "persist-pubsub.dataPorts" -}}
{{- $root := index . 0 -}}
- name: grpc
  port: {{ index . 1 }}
  targetPort: grpc
  {{- if not $root.Values.tls.enabled }}
  appProtocol: grpc
  {{- end }}
{{- if $root.Values.tls.plaintextPort }}
- name: grpc-plaintext
  port: {{ $root.Values.tls.plaintextPort }}
  targetPort: grpc-plaintext
  appProtocol: grpc
{{- end }}
{{- end }}
