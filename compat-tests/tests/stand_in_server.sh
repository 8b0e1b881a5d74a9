#!/bin/sh
# Stands in for persist-pubsub where a test is about the instrument that
# starts it. Takes the same flags, and --behaviour serve|fail|babble.
set -eu
file= behaviour=
while [ $# -gt 0 ]; do
    case $1 in
        --addresses-file) file=$2; shift ;;
        --behaviour) behaviour=$2; shift ;;
    esac
    shift
done
case $behaviour in
    serve)
        trap 'echo terminated; exit 0' TERM
        echo serving
        printf '{"listen":"127.0.0.1:1001","admin_listen":"127.0.0.1:1002","pid":%d}' $$ >"$file.new"
        mv "$file.new" "$file"
        # A shell runs its trap between commands: short ones.
        while :; do sleep 0.1; done
        ;;
    fail)
        echo 'the port is in use' >&2
        exit 3
        ;;
    babble)
        echo 'no idea' >"$file.new"
        mv "$file.new" "$file"
        exec sleep 60
        ;;
esac
