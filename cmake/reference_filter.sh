#!/bin/sh
# A header for Doxygen: plain comments become its own, and nothing in them is a command or a tag.
awk '
  /^[ \t]*\/\/($|[^\/])/ {
    at = index($0, "//")
    text = substr($0, at + 2)
    gsub(/[\\@]/, "\\\\&", text); gsub(/</, "\\<", text); gsub(/>/, "\\>", text); gsub(/#/, "\\#", text); gsub(/%/, "\\%", text)
    print substr($0, 1, at - 1) "///" text
    next
  }
  { print }
' "$1"
