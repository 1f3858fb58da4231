-- wrk's totals as one line of JSON. Arguments: the method, and the size of the request's body in bytes.
function init(args)
   wrk.method = args[1]
   if tonumber(args[2]) > 0 then
      wrk.body = string.rep("x", tonumber(args[2]))
   end
   request = function() return wrk.format() end
end

function done(summary)
   local e = summary.errors
   io.write(string.format(
      '{"requests": %d, "bytes": %d, "duration_s": %.6f, "errors": %d}\n',
      summary.requests, summary.bytes, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout))
end
