;; A component of the world `record-transform`, written by hand: nothing of an SDK is in it. What becomes of a record says the first
;; byte of its value:
;;   f  it fails        t  the call traps        e  the call is an error        x  its value becomes 1 MiB, where all such share one
;;   k, p, o  it goes on by its key, to partition 2, to output 1; anything else goes on by the input
;; What goes on is a ms younger than it was. Results stay where they are, as in components that free nothing.
(component
  (import "tidemill:transform/types@0.2.0" (instance $types
    (type $placement' (variant (case "by-input") (case "by-key") (case "partition" u32)))
    (export "placement" (type (eq $placement')))
    (type $failure' (record (field "offset" s64) (field "message" string)))
    (export "record-failure" (type (eq $failure')))))
  (alias export $types "placement" (type $placement))
  (alias export $types "record-failure" (type $record-failure))

  (core module $code
    (memory (export "memory") 40)
    (data (i32.const 16) "not this one")
    (data (i32.const 32) "not this call")
    ;; Below it lie the texts, the result at 64, and at 1 MiB the large value.
    (global $free (mut i32) (i32.const 0x200000))

    (func $take (param $align i32) (param $size i32) (result i32) (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $free) (i32.shl (memory.size) (i32.const 16)))
        (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
          (then (unreachable)))))
      (local.get $at))

    (func (export "realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
      (call $take (local.get $align) (local.get $size)))

    (func (export "process") (param $partition i32) (param $in i32) (param $count i32) (result i32)
      (local $out i32) (local $failed i32) (local $written i32) (local $failures i32) (local $first i32) (local $to i32)
      (local.set $out (call $take (i32.const 8) (i32.mul (local.get $count) (i32.const 56))))
      (local.set $failed (call $take (i32.const 8) (i32.mul (local.get $count) (i32.const 16))))
      ;; The result begins as an outcome.
      (i64.store (i32.const 64) (i64.const 0))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        ;; The value's first byte; 0 where there is none.
        (local.set $first (i32.const 0))
        (if (i32.and (i32.load8_u offset=28 (local.get $in)) (i32.ne (i32.const 0) (i32.load offset=36 (local.get $in))))
          (then (local.set $first (i32.load8_u (i32.load offset=32 (local.get $in))))))
        (if (i32.eq (local.get $first) (i32.const 116)) (then (unreachable)))
        (if (i32.eq (local.get $first) (i32.const 101))
          (then
            (i32.store (i32.const 64) (i32.const 1))
            (i32.store (i32.const 68) (i32.const 32))
            (i32.store (i32.const 72) (i32.const 13))
            (return (i32.const 64))))
        (if (i32.eq (local.get $first) (i32.const 102))
          (then
            (local.set $to (i32.add (local.get $failed) (i32.mul (local.get $failures) (i32.const 16))))
            (i64.store (local.get $to) (i64.load (local.get $in)))
            (i32.store offset=8 (local.get $to) (i32.const 16))
            (i32.store offset=12 (local.get $to) (i32.const 12))
            (local.set $failures (i32.add (local.get $failures) (i32.const 1))))
          (else
            (call $forward
              (local.get $in)
              (i32.add (local.get $out) (i32.mul (local.get $written) (i32.const 56)))
              (local.get $first))
            (local.set $written (i32.add (local.get $written) (i32.const 1)))))
        (local.set $in (i32.add (local.get $in) (i32.const 48)))
        (br $next)))
      (i32.store (i32.const 68) (local.get $out))
      (i32.store (i32.const 72) (local.get $written))
      (i32.store (i32.const 76) (local.get $failed))
      (i32.store (i32.const 80) (local.get $failures))
      (i32.const 64))

    ;; Writes the record at $in, whose value begins with $first, to $out; key, value and headers stay where they lie.
    (func $forward (param $in i32) (param $out i32) (param $first i32)
      (i32.store (local.get $out) (i32.eq (local.get $first) (i32.const 111)))
      (i32.store8 offset=4 (local.get $out)
        (select (i32.const 2) (i32.eq (local.get $first) (i32.const 107)) (i32.eq (local.get $first) (i32.const 112))))
      (i32.store offset=8 (local.get $out) (i32.const 2))
      (i64.store offset=16 (local.get $out) (i64.add (i64.load offset=8 (local.get $in)) (i64.const 1)))
      (memory.copy
        (i32.add (local.get $out) (i32.const 24))
        (i32.add (local.get $in) (i32.const 16))
        (i32.const 32))
      (if (i32.eq (local.get $first) (i32.const 120))
        (then
          (i32.store offset=40 (local.get $out) (i32.const 0x100000))
          (i32.store offset=44 (local.get $out) (i32.const 0x100000)))))
  )
  (core instance $code (instantiate $code))

  (type $header (record (field "key" string) (field "value" (option (list u8)))))
  (type $input-record (record
    (field "offset" s64) (field "timestamp" s64) (field "key" (option (list u8))) (field "value" (option (list u8)))
    (field "headers" (list $header))))
  (type $output-record (record
    (field "output" u32) (field "placement" $placement) (field "timestamp" s64) (field "key" (option (list u8)))
    (field "value" (option (list u8))) (field "headers" (list $header))))
  (type $outcome (record (field "outputs" (list $output-record)) (field "failures" (list $record-failure))))
  (func $process
    (param "partition" u32) (param "records" (list $input-record)) (result (result $outcome (error string)))
    (canon lift (core func $code "process") (memory (core memory $code "memory")) (realloc (core func $code "realloc"))))

  ;; An interface that is exported has to export the types of its functions, too.
  (component $interface
    (import "placement" (type $placement'' (eq $placement)))
    (import "record-failure" (type $record-failure'' (eq $record-failure)))
    (import "header" (type $header'' (eq $header)))
    (type $input' (record
      (field "offset" s64) (field "timestamp" s64) (field "key" (option (list u8))) (field "value" (option (list u8)))
      (field "headers" (list $header''))))
    (import "input-record" (type $input'' (eq $input')))
    (type $output' (record
      (field "output" u32) (field "placement" $placement'') (field "timestamp" s64) (field "key" (option (list u8)))
      (field "value" (option (list u8))) (field "headers" (list $header''))))
    (import "output-record" (type $output'' (eq $output')))
    (type $outcome' (record (field "outputs" (list $output'')) (field "failures" (list $record-failure''))))
    (import "outcome" (type $outcome'' (eq $outcome')))
    (import "process" (func $process'
      (param "partition" u32) (param "records" (list $input'')) (result (result $outcome'' (error string)))))

    (export $p "placement" (type $placement''))
    (export $f "record-failure" (type $record-failure''))
    (export $h "header" (type $header''))
    (type $input (record
      (field "offset" s64) (field "timestamp" s64) (field "key" (option (list u8))) (field "value" (option (list u8)))
      (field "headers" (list $h))))
    (export $i "input-record" (type $input'') (type (eq $input)))
    (type $output (record
      (field "output" u32) (field "placement" $p) (field "timestamp" s64) (field "key" (option (list u8)))
      (field "value" (option (list u8))) (field "headers" (list $h))))
    (export $o "output-record" (type $output'') (type (eq $output)))
    (type $out (record (field "outputs" (list $o)) (field "failures" (list $f))))
    (export $e "outcome" (type $outcome'') (type (eq $out)))
    (export "process" (func $process')
      (func (param "partition" u32) (param "records" (list $i)) (result (result $e (error string)))))
  )
  (instance $interface (instantiate $interface
    (with "placement" (type $placement))
    (with "record-failure" (type $record-failure))
    (with "header" (type $header))
    (with "input-record" (type $input-record))
    (with "output-record" (type $output-record))
    (with "outcome" (type $outcome))
    (with "process" (func $process))))
  (export "tidemill:transform/record-processor@0.2.0" (instance $interface))
)
