{{/*
The Secrets of the connection to NATS, as a YAML list: the volume that each is
mounted as, and the key of the file for each flag.
*/}}
{{- define "persist-pubsub.backplaneSecrets" -}}
{{- $backplane := .Values.backplane -}}
{{- $secrets := list -}}
{{- if $backplane.urls -}}
{{- range $flag, $from := dict "credentials-file" $backplane.credentials "nkey-file" $backplane.nkey "password-file" $backplane.user "token-file" $backplane.token -}}
{{- with $from.existingSecret -}}
{{- $secrets = append $secrets (dict "volume" "backplane-auth" "secret" . "files" (dict $flag $from.key)) -}}
{{- end -}}
{{- end -}}
{{- with $backplane.tls.ca.secret -}}
{{- $secrets = append $secrets (dict "volume" "backplane-ca" "secret" . "files" (dict "tls-ca" $backplane.tls.ca.key)) -}}
{{- end -}}
{{- with $backplane.tls.clientCertSecret -}}
{{- $secrets = append $secrets (dict "volume" "backplane-tls" "secret" . "files" (dict "tls-cert" "tls.crt" "tls-key" "tls.key")) -}}
{{- end -}}
{{- end -}}
{{- toYaml $secrets -}}
{{- end }}

{{/* Arguments by which a server finds the others. */}}
{{- define "persist-pubsub.backplaneArgs" -}}
{{- $backplane := .Values.backplane -}}
- {{ printf "--backplane=%s" (join "," $backplane.urls) | quote }}
- --backplane-prefix={{ $backplane.prefix }}
# As operators name it: `sessions --replica`, and in the log.
- --replica-name=$(POD_NAME)
{{- with $backplane.user.name }}
- {{ printf "--backplane-user=%s" . | quote }}
{{- end }}
{{- range $secret := include "persist-pubsub.backplaneSecrets" . | fromYamlArray }}
{{- range $flag, $key := $secret.files }}
- --backplane-{{ $flag }}=/etc/persist-pubsub/{{ $secret.volume }}/{{ $key }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Where NATS and names are: rules of a NetworkPolicy's egress. A name server may
be a pod, or of the node itself, so that no selector fits all clusters.
*/}}
{{- define "persist-pubsub.backplaneEgress" -}}
{{- $ports := list -}}
{{- range .Values.backplane.urls -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default "4222" | int64) -}}
{{- end -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
- ports:
    {{- range uniq $ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.backplane }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* What no single value of the backplane can tell: called by the other checks. */}}
{{- define "persist-pubsub.validateBackplane" -}}
{{- $v := .Values -}}
{{- $backplane := $v.backplane -}}
{{- $replicas := int64 $v.replicaCount -}}
{{- $ways := list -}}
{{- range $way := list "credentials" "nkey" "user" "token" -}}
{{- if (get $backplane $way).existingSecret -}}{{- $ways = append $ways $way -}}{{- end -}}
{{- end -}}
{{- $tls := or $backplane.tls.ca.secret $backplane.tls.clientCertSecret -}}
{{- if not $backplane.urls -}}
{{- if gt $replicas 1 -}}
{{- fail (printf "replicaCount is %d, and backplane.urls is empty: servers hear each other through NATS alone, so without it clients of one would miss what clients of another write. Name a NATS in backplane.urls, or set replicaCount to 1" $replicas) -}}
{{- end -}}
{{- if or $ways $backplane.user.name $tls $v.networkPolicy.backplane -}}
{{- fail "backplane.urls is empty, but another value of the backplane is set (under backplane, or networkPolicy.backplane): name a NATS, or remove the other" -}}
{{- end -}}
{{- else -}}
{{- if gt (len $ways) 1 -}}
{{- fail (printf "backplane.%s.existingSecret and backplane.%s.existingSecret are both set; one way to prove who it is is allowed" (index $ways 0) (index $ways 1)) -}}
{{- end -}}
{{- if ne (empty $backplane.user.name) (empty $backplane.user.existingSecret) -}}
{{- fail "backplane.user.name and backplane.user.existingSecret (of the password) need each other" -}}
{{- end -}}
{{- $secure := 0 -}}
{{- range $backplane.urls -}}{{- if hasPrefix "tls://" . -}}{{- $secure = add1 $secure -}}{{- end -}}{{- end -}}
{{- if and $secure (ne (int $secure) (len $backplane.urls)) -}}
{{- fail "backplane.urls has addresses with tls:// and with nats://: all are of one cluster, and either all or none speak TLS" -}}
{{- end -}}
{{- if and $secure (not $backplane.tls.ca.secret) -}}
{{- fail "backplane.urls with tls:// need backplane.tls.ca.secret: the image knows no authority that NATS' certificate could be of" -}}
{{- end -}}
{{- if and $tls (not $secure) -}}
{{- fail "a value under backplane.tls is set, but no address of backplane.urls begins with tls://" -}}
{{- end -}}
{{- $join := index $v.settings "backplane-join-timeout" | default "1s" -}}
{{- $window := index $v.settings "drain-window" -}}
{{- if ge (include "persist-pubsub.millis" $join | int64) (include "persist-pubsub.millis" $window | int64) -}}
{{- fail (printf "settings.backplane-join-timeout is %s; less than settings.drain-window (%s) is allowed, or the session that a client leaves may end before its next one is answered" $join $window) -}}
{{- end -}}
{{- if and (gt $replicas 1) $v.stateFile.existingClaim -}}
{{- fail (printf "stateFile.existingClaim is set, and replicaCount is %d: a state file is one server's alone. NATS with JetStream keeps the fences of all" $replicas) -}}
{{- end -}}
{{- if and (gt $replicas 1) $v.podDisruptionBudget.enabled (ge (int64 $v.podDisruptionBudget.maxUnavailable) $replicas) -}}
{{- fail (printf "podDisruptionBudget.maxUnavailable is %d; with replicaCount %d at most %d is allowed, or all of them may go at once" (int64 $v.podDisruptionBudget.maxUnavailable) $replicas (sub $replicas 1)) -}}
{{- end -}}
{{- end -}}
{{- end }}
