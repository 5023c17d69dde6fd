#!/usr/bin/awk -f
# Objects of a built overlay by kind and name: part.awk -v kinds='A B' -v names='x y' FILE. Empty is any.
function flush() {
    if (text != "" && (kinds == "" || index(" " kinds " ", " " kind " ")) && (names == "" || index(" " names " ", " " name " "))) {
        printf "---\n%s", text
    }
    text = ""; kind = ""; name = ""; inside = 0
}
/^---$/ { flush(); next }
{ text = text $0 "\n" }
/^kind: / { kind = $2 }
/^metadata:/ { inside = 1; next }
/^[a-zA-Z]/ { inside = 0 }
inside && /^  name: / { name = $2 }
END { flush() }
